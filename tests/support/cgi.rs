//! `git http-backend`, a CGI program (RFC 3875), for [`super::web`].

use std::io::{self, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::process::bounded_command;
use super::tools::path_of;
use super::web::WebRequest;
use super::wire::{Wire, field};

/// Passes a request for the repositories below `root` to git, and sends its output as a chunked response.
pub fn git(wire: &mut Wire, asked: &WebRequest<'_>, root: &Path, path: &str, query: &str) -> io::Result<bool> {
    if field(asked.head, "expect").is_some() {
        wire.send("HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let body = wire.request_body(asked.head)?;
    let mut command = bounded_command(path_of("git"), Duration::from_secs(60));
    command.arg("http-backend").env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1");
    command.env("PATH_INFO", format!("/{path}")).env("QUERY_STRING", query).env("REQUEST_METHOD", asked.method);
    command.env("CONTENT_LENGTH", body.len().to_string()).env("REMOTE_USER", "tester").env("REMOTE_ADDR", "127.0.0.1");
    command.env("CONTENT_TYPE", field(asked.head, "content-type").unwrap_or_default());
    command.env("HTTP_CONTENT_ENCODING", field(asked.head, "content-encoding").unwrap_or_default());
    if let Some(version) = field(asked.head, "git-protocol") {
        command.env("GIT_PROTOCOL", version);
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().expect("the piped input");
    let feeder = std::thread::spawn(move || stdin.write_all(&body));
    let output = child.wait_with_output()?;
    // The program may end before it has read everything.
    let _ = feeder.join();
    let end = output.stdout.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(0);
    let head = String::from_utf8_lossy(&output.stdout[..end]).into_owned();
    let body = output.stdout.get(end + 4..).unwrap_or_default();
    let status = field(&format!("\r\n{head}"), "status").unwrap_or("200 OK").to_owned();
    let head: String =
        head.lines().filter(|line| !line.starts_with("Status")).map(|line| format!("{line}\r\n")).collect();
    wire.send(format!("HTTP/1.1 {status}\r\n{head}Transfer-Encoding: chunked\r\n\r\n"))?;
    for piece in body.chunks(32 * 1024) {
        wire.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat())?;
    }
    wire.send("0\r\n\r\n")?;
    Ok(true)
}
