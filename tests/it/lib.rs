//! Holds nothing: everything here is one integration test, `it`.
