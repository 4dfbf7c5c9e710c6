//! HTTP/1.1 to a proxy (RFC 9112 §3.2).

mod answer;
mod read;
mod status;

pub use answer::answer;
pub use read::RequestReader;
pub use status::{error_type, status};
