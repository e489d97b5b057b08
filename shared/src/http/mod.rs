//! The HTTP edge that all functions share: routes, callers, bodies, pages, and the one error envelope.

pub mod access;
pub mod body;
pub mod caller;
pub mod cursor;
pub mod reply;
pub mod routes;
pub mod target;
pub mod views;

pub use access::Subject;
pub use body::{Body, Params, parse as parse_body};
pub use caller::Caller;
pub use cursor::{Pages, Paging};
pub use reply::{Reply, respond};
pub use routes::{Edge, Route, delete, get, mount, patch, post, put};
pub use target::Target;
