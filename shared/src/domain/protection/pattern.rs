//! Patterns of names.

/// Whether a text fits a pattern in which `*` stands for any characters; case does not matter.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_lowercase(), text.to_lowercase());
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_stands_for_what_it_looks_like() {
        for (pattern, text, expected) in [
            ("champion", "champion", true),
            ("champion", "Champion", true),
            ("champion", "champion2", false),
            ("*", "", true),
            ("*", "anything", true),
            ("prod*", "production", true),
            ("prod*", "preprod", false),
            ("*prod", "preprod", true),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "abcc", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("", "", true),
            ("", "x", false),
            ("Ä*", "äpfel", true),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern:?} of {text:?}");
        }
    }
}
