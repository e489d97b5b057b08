//! Attempts, decided and made.
