//! A recorded NTLM conversation with an ISA Server, byte for byte, including blanks at the ends of lines. For tests.

/// Message 1 in base64.
pub(crate) const NEGOTIATE: &str = "TlRMTVNTUAABAAAAt7II4gkACQAxAAAACQAJACgAAAAFASgKAAAAD0xBQlNNT0tFM1dPUktHUk9VUA==";
/// Message 2 in base64.
pub(crate) const CHALLENGE: &str = "TlRMTVNTUAACAAAAEAAQADgAAAA1goriluCDYHcYI/sAAAAAAAAAAFQAVABIAAAABQLODgAAAA9TAFAASQBSAEkAVAAxAEIAAgAQAFMAUABJAFIASQBUADEAQgABABAAUwBQAEkAUgBJAFQAMQBCAAQAEABzAHAAaQByAGkAdAAxAGIAAwAQAHMAcABpAHIAaQB0ADEAYgAAAAAA";
/// Message 3 in base64.
pub(crate) const AUTHENTICATE: &str = "TlRMTVNTUAADAAAAGAAYAHIAAAAYABgAigAAABIAEgBIAAAABgAGAFoAAAASABIAYAAAABAAEACiAAAANYKI4gUBKAoAAAAPTABBAEIAUwBNAE8ASwBFADMAXwBxAGEATABBAEIAUwBNAE8ASwBFADMA0NKq8HYYhj8AAAAAAAAAAAAAAAAAAAAAOIiih3mR+AkyM4r99sy1mdFonCu2ILODro1WTTrJ4b4JcXEzUBA2Ig==";

/// The head of the first response, which is followed by a body of 701 bytes.
pub(crate) const FIRST_REFUSAL: &str = "HTTP/1.1 407 ProxyAuthentication Required ( The ISA Server requires authorization to fulfill the request. Access to the Web proxy service is denied. ) \r\n\
    Via: 1.1 SPIRIT1B \r\n\
    proxy-Authenticate: Negotiate \r\n\
    proxy-Authenticate: Kerberos \r\n\
    proxy-Authenticate: NTLM \r\n\
    Connection: close \r\n\
    proxy-Connection: close \r\n\
    Pragma: no-cache \r\n\
    Cache-Control: no-cache \r\n\
    Content-Type: text/html \r\n\
    Content-Length: 701  \r\n\r\n";

/// The final response.
pub(crate) const ESTABLISHED: &str = "HTTP/1.1 200 Connection established \r\nVia: 1.1 SPIRIT1B \r\n\r\n";

/// The response with the CHALLENGE_MESSAGE.
pub(crate) fn challenged() -> String {
    format!(
        "HTTP/1.1 407 ProxyAuthentication Required ( Access is denied. ) \r\n\
         Via: 1.1 SPIRIT1B \r\nproxy-Authenticate: NTLM {CHALLENGE} \r\n\
         Connection: Keep-Alive \r\nproxy-Connection: Keep-Alive \r\nPragma: no-cache \r\n\
         Cache-Control: no-cache \r\nContent-Type: text/html \r\nContent-Length: 0   \r\n\r\n"
    )
}
