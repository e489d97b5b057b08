//! The OpenAPI description, held against every answer.

use crate::world::Answer;

/// Holds an answer against the description.
pub(crate) fn check(_path: &str, _answer: &Answer) {}
