//! Numbers of metrics as whole numbers of a unit, for policies that know no fractions.
//!
//! What is scaled is the shortest decimal that reads back as the same double, which is what JSON shows; so `0.97` is
//! exactly 97 hundredths. What has more digits than asked for is rounded down, towards minus infinity.

use serde_json::Number;

/// Most digits after the point.
pub const MAX_DIGITS: u8 = 15;

/// The number times ten to the power of `digits`, rounded down; `None` if that is no 64-bit whole number.
///
/// ```
/// use shared::domain::decimal::scaled;
/// assert_eq!(scaled(&serde_json::from_str("0.97").unwrap(), 6), Some(970_000));
/// ```
pub fn scaled(number: &Number, digits: u8) -> Option<i64> {
    let text = number.to_string();
    let (is_negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.as_str()),
    };
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let all = all.trim_start_matches('0');
    if all.is_empty() {
        return Some(0);
    }
    // Where the point stands among `all`, once the number is scaled.
    let shift = exponent + i32::from(digits) - i32::try_from(fraction.len()).ok()?;
    let (kept, lost) = if shift >= 0 {
        if shift > 20 {
            return None;
        }
        let zeros = "0".repeat(usize::try_from(shift).ok()?);
        (format!("{all}{zeros}"), false)
    } else {
        let cut = all.len().saturating_sub(usize::try_from(-shift).ok()?);
        let (kept, rest) = all.split_at(cut);
        (kept.to_owned(), rest.bytes().any(|digit| digit != b'0'))
    };
    let magnitude = if kept.is_empty() {
        0
    } else {
        kept.parse::<i128>().ok()?
    };
    let value = if is_negative {
        -magnitude - i128::from(lost)
    } else {
        magnitude
    };
    i64::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimals_are_scaled_exactly_and_rounded_down() {
        for (text, digits, expected) in [
            ("0", 6, Some(0)),
            ("-0.0", 6, Some(0)),
            ("1", 6, Some(1_000_000)),
            ("0.97", 6, Some(970_000)),
            ("0.97", 2, Some(97)),
            ("0.97", 1, Some(9)),
            ("0.97", 0, Some(0)),
            ("-0.97", 1, Some(-10)),
            ("-0.97", 2, Some(-97)),
            ("-0.5", 0, Some(-1)),
            ("0.30000000000000004", 6, Some(300_000)),
            ("0.1234567", 6, Some(123_456)),
            ("1e-7", 6, Some(0)),
            ("-1e-7", 6, Some(-1)),
            ("1e-300", 15, Some(0)),
            ("1.5e3", 2, Some(150_000)),
            ("12345.678", 3, Some(12_345_678)),
            ("9223372036854775807", 0, Some(i64::MAX)),
            ("9223372036854775808", 0, None),
            ("1e300", 0, None),
            ("1e15", 6, None),
            ("-9223372036854775808", 0, Some(i64::MIN)),
        ] {
            let number: Number = serde_json::from_str(text).unwrap();
            assert_eq!(
                scaled(&number, digits),
                expected,
                "{text} with {digits} digits"
            );
        }
    }

    proptest! {
        #[test]
        fn order_is_kept(left in -1e6_f64..1e6, right in -1e6_f64..1e6, digits in 0_u8..9) {
            let scale = |value: f64| scaled(&Number::from_f64(value).unwrap(), digits).unwrap();
            if left <= right {
                prop_assert!(scale(left) <= scale(right));
            }
        }
    }
}
