//! The fields of a request, read as MLflow's server reads them: protobuf's JSON, then checks in the order of a schema.
//!
//! Faults are in the words of `mlflow/server/handlers.py`, because users search for them.
//! Unknown fields are ignored, `null` is absent, and `lowerCamelCase` names are taken too, as protobuf has it.

use super::error::invalid;
use crate::error::{Error, ErrorCode, Result};
use axum::extract::{FromRequest, Request};
use http::{Method, header};
use http_body_util::BodyExt as _;
use serde_json::{Map, Value};

/// The fields of a request, from its JSON body or, with GET, from its query.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    values: Map<String, Value>,
    /// Leads the names of nested fields in messages, such as `metrics[3].`.
    place: String,
    /// Values of a query are texts whatever they mean.
    is_query: bool,
}

const SEE_DOCS: &str = " See the API docs for more information about request parameters.";

/// MLflow's words for a parameter that is not there.
pub fn missing(name: &str) -> Error {
    invalid(format!(
        "Missing value for required parameter '{name}'.{SEE_DOCS}"
    ))
}

/// MLflow's words for a parameter of a wrong type or out of its bounds.
pub fn mistyped(name: &str, value: &Value) -> Error {
    let kind = match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    };
    invalid(format!(
        "{} Hint: Value was of type '{kind}'.{SEE_DOCS}",
        invalid_value(name, value)
    ))
}

/// `Invalid value 1 for parameter 'name' supplied: `, to which a reason is added.
pub fn invalid_value(name: &str, value: &Value) -> String {
    format!(
        "Invalid value {} for parameter '{name}' supplied: ",
        python_json(value)
    )
}

/// JSON as Python writes it: without spaces, and ASCII only. Long values are cut, because a client gets them back.
fn python_json(value: &Value) -> String {
    use std::fmt::Write as _;
    let json = value.to_string();
    let mut text = String::with_capacity(json.len());
    for character in json.chars().take(1_000) {
        if character.is_ascii() {
            text.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text
}

impl Fields {
    /// Fields from a JSON object; anything else has none.
    pub fn of(value: Value) -> Self {
        let values = match value {
            Value::Object(values) => values,
            _ => Map::new(),
        };
        Self {
            values,
            ..Self::default()
        }
    }

    /// Fields from a query string; a parameter that is repeated is a list.
    pub fn of_query(query: &str) -> Self {
        let mut values = Map::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = Value::from(value.into_owned());
            match values.get_mut(name.as_ref()) {
                Some(Value::Array(repeated)) => repeated.push(value),
                _ => {
                    values.insert(name.into_owned(), Value::Array(vec![value]));
                }
            }
        }
        Self {
            values,
            is_query: true,
            ..Self::default()
        }
    }

    /// The value of a field, if it is there and not `null`; of a repeated query parameter the first.
    pub fn value(&self, name: &str) -> Option<&Value> {
        let value = self
            .values
            .get(name)
            .or_else(|| self.values.get(&camel_case(name)))?;
        match value {
            Value::Null => None,
            Value::Array(values) if self.is_query => values.first(),
            value => Some(value),
        }
    }

    /// The name of a field in messages.
    fn named(&self, name: &str) -> String {
        format!("{}{name}", self.place)
    }

    /// A text.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(mistyped(&self.named(name), other)),
        }
    }

    /// A text that must be there and not be empty.
    pub fn required(&self, name: &str) -> Result<String> {
        self.text(name)?
            .filter(|text| !text.is_empty())
            .ok_or_else(|| missing(&self.named(name)))
    }

    /// A whole number; protobuf takes it as a text too.
    pub fn int(&self, name: &str) -> Result<Option<i64>> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let parsed = match value {
            Value::Number(number) => number.as_i64().or_else(|| whole(number.as_f64()?)),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        parsed
            .map(Some)
            .ok_or_else(|| mistyped(&self.named(name), value))
    }

    /// A number; protobuf takes it as a text too, and `NaN` and `Infinity` as texts only.
    pub fn float(&self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let parsed = match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => match text.as_str() {
                "NaN" => Some(f64::NAN),
                "Infinity" => Some(f64::INFINITY),
                "-Infinity" => Some(f64::NEG_INFINITY),
                text => text
                    .trim()
                    .parse()
                    .ok()
                    .filter(|number: &f64| number.is_finite()),
            },
            _ => None,
        };
        parsed
            .map(Some)
            .ok_or_else(|| mistyped(&self.named(name), value))
    }

    /// A truth value; in a query `true` or `false` in any case.
    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(Value::String(text)) if self.is_query => match text.to_lowercase().as_str() {
                "true" => Ok(Some(true)),
                "false" => Ok(Some(false)),
                _ => Err(invalid(format!(
                    "Invalid boolean value: {text}, must be 'true' or 'false'."
                ))),
            },
            Some(other) => Err(mistyped(&self.named(name), other)),
        }
    }

    /// A list of texts.
    pub fn texts(&self, name: &str) -> Result<Vec<String>> {
        self.list(name)?
            .iter()
            .map(|value| match value {
                Value::String(text) => Ok(text.clone()),
                _ => Err(mistyped(
                    &self.named(name),
                    &Value::Array(self.list(name)?.to_vec()),
                )),
            })
            .collect()
    }

    /// A list of objects, each as fields of its own.
    pub fn objects(&self, name: &str) -> Result<Vec<Self>> {
        self.list(name)?
            .iter()
            .enumerate()
            .map(|(index, value)| match value {
                Value::Object(values) => Ok(Self {
                    values: values.clone(),
                    place: format!("{}{name}[{index}].", self.place),
                    is_query: false,
                }),
                other => Err(mistyped(&format!("{}{name}[{index}]", self.place), other)),
            })
            .collect()
    }

    /// An object as fields of its own.
    pub fn object(&self, name: &str) -> Result<Option<Self>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Object(values)) => Ok(Some(Self {
                values: values.clone(),
                place: format!("{}{name}.", self.place),
                is_query: false,
            })),
            Some(other) => Err(mistyped(&self.named(name), other)),
        }
    }

    /// A list of `{"key": …, "value": …}`, such as tags; an absent value is empty, as protobuf has it.
    pub fn pairs(&self, name: &str) -> Result<Vec<(String, String)>> {
        self.objects(name)?
            .iter()
            .map(|pair| {
                Ok((
                    pair.text("key")?.unwrap_or_default(),
                    pair.text("value")?.unwrap_or_default(),
                ))
            })
            .collect()
    }

    /// A list of anything.
    pub fn list(&self, name: &str) -> Result<&[Value]> {
        let value = self
            .values
            .get(name)
            .or_else(|| self.values.get(&camel_case(name)));
        match value {
            None | Some(Value::Null) => Ok(&[]),
            Some(Value::Array(values)) => Ok(values),
            Some(other) => Err(mistyped(&self.named(name), other)),
        }
    }
}

/// A whole number that JSON spells with a point, such as `3.0`.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the number is whole and within the bounds that a float holds exactly"
)]
fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0).then_some(number as i64)
}

/// The name of a field in protobuf's JSON: `run_id` is `runId`.
fn camel_case(name: &str) -> String {
    let mut camel = String::with_capacity(name.len());
    let mut is_next_upper = false;
    for character in name.chars() {
        if character == '_' {
            is_next_upper = true;
        } else if is_next_upper {
            camel.extend(character.to_uppercase());
            is_next_upper = false;
        } else {
            camel.push(character);
        }
    }
    camel
}

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        let (parts, body) = request.into_parts();
        if parts.method == Method::GET
            && let Some(query) = parts.uri.query().filter(|query| !query.is_empty())
        {
            return Ok(Self::of_query(query));
        }
        if parts.method == Method::POST || parts.method == Method::PUT {
            check_content_type(&parts.headers)?;
        }
        let bytes = body
            .collect()
            .await
            .map_err(|error| {
                Error::new(
                    ErrorCode::MalformedBody,
                    "the body did not arrive whole; send it again",
                )
                .caused_by(error)
            })?
            .to_bytes();
        // MLflow's server takes a body that is no JSON as one without fields.
        let mut value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        // Old clients encode the body twice.
        if let Value::String(inner) = &value {
            value = serde_json::from_str(inner).unwrap_or(Value::Null);
        }
        Ok(Self::of(value))
    }
}

fn check_content_type(headers: &http::HeaderMap) -> Result<()> {
    let given = headers
        .get(header::CONTENT_TYPE)
        .ok_or_else(|| invalid("Bad Request. Content-Type header is missing."))?;
    let essence = given.to_str().unwrap_or_default();
    let essence = essence.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        Err(invalid(
            "Bad Request. Content-Type must be one of ['application/json'].",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlflow::error::translated;
    use serde_json::json;

    fn message(error: &Error) -> String {
        translated(error).1
    }

    #[test]
    fn faults_are_in_the_words_of_mlflow() {
        let fields = Fields::of(json!({"name": 123, "empty": "", "max_results": "x", "tags": "t"}));
        assert_eq!(
            message(&fields.required("name").unwrap_err()),
            "Invalid value 123 for parameter 'name' supplied:  Hint: Value was of type 'int'. \
             See the API docs for more information about request parameters."
        );
        for name in ["empty", "absent"] {
            assert_eq!(
                message(&fields.required(name).unwrap_err()),
                format!(
                    "Missing value for required parameter '{name}'. \
                     See the API docs for more information about request parameters."
                )
            );
        }
        assert!(message(&fields.int("max_results").unwrap_err()).contains("of type 'str'"));
        assert!(fields.pairs("tags").is_err());
    }

    #[test]
    fn queries_and_bodies_are_read_alike() {
        let query = Fields::of_query("name=a+b&order_by=x&order_by=y&max_results=7&flag=True");
        assert_eq!(query.required("name").unwrap(), "a b");
        assert_eq!(query.texts("order_by").unwrap(), ["x", "y"]);
        assert_eq!(query.int("max_results").unwrap(), Some(7));
        assert_eq!(query.flag("flag").unwrap(), Some(true));
        let body = Fields::of(json!({"runId": "r", "n": 3.0, "m": "4", "nothing": null}));
        assert_eq!(body.text("run_id").unwrap().as_deref(), Some("r"));
        assert_eq!(body.int("n").unwrap(), Some(3));
        assert_eq!(body.int("m").unwrap(), Some(4));
        assert_eq!(body.text("nothing").unwrap(), None);
    }

    #[test]
    fn tags_of_protobuf_may_lack_their_value() {
        let fields = Fields::of(json!({"tags": [{"key": "a"}, {"key": "b", "value": "c"}]}));
        assert_eq!(
            fields.pairs("tags").unwrap(),
            [("a".into(), String::new()), ("b".into(), "c".into())]
        );
    }
}
