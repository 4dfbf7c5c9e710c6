//! HTTP/1 on the proxy hop: pure, bytes in, bytes out.
