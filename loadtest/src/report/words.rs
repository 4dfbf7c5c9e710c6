//! What each measurement means, for somebody who has never seen it.

/// What a measurement shows and why one would want to know. By the name's first part: `hold` of `hold:3000`.
pub fn explain(name: &str) -> &'static str {
    match name.split(':').next().unwrap_or_default() {
        "hold" => {
            "Many clients keep a connection open and say nothing, as browsers, database drivers and message queues do. What \
             such a tunnel costs in memory decides how many fit on a machine. RSS is the candidate's own memory; the \
             kernel's share is for the sockets. Afterwards every tunnel must still carry bytes."
        }
        "setup" => {
            "A client opens a tunnel, exchanges 64 bytes and closes it, over and over. This is what short requests cost. \
             Candidates that authenticate need two requests to the upstream where plain relays need one."
        }
        "open" => {
            "Tunnels are begun on a fixed schedule, whether earlier ones are done or not, and latency counts from the \
             scheduled moment. A stall of the candidate shows in full here, where a client that waits politely would hide \
             it."
        }
        "legs" => {
            "The upstream is made to answer 20 ms late, as if it stood in another town. What counts now is how often a \
             candidate has to ask it before a tunnel is open: a leg is one such question and answer."
        }
        "pingpong" => {
            "Small messages go to and fro on tunnels that stay open, as in a remote call or a database session. What a \
             candidate adds to each is its latency."
        }
        "http" | "http-post" => {
            "Programs ask for plain http:// pages through the proxy, one request after the other on connections that stay open. \
             A connection to the upstream is authenticated once and then carries many requests, so what counts is what a \
             candidate does per request: read, understand, pass on. HAProxy, nginx, Squid and the direct way have an \
             upstream that asks for no proof."
        }
        "bulk-down" => "Origins send as fast as they can through a few tunnels, and the client checks every byte.",
        "bulk-up" => "Clients send as fast as they can through a few tunnels, and the origin confirms what it got.",
        _ => "",
    }
}

/// How to read the charts.
pub const HOW_TO_READ: &str = "Each candidate was started afresh for each measurement, and the candidates took turns (A B C, A B \
    C, …), so that the machine's moods meet all of them. A bar is the median of the rounds, the thin line on it reaches from \
    the least to the greatest. The number behind × is the ratio to the base candidate, with the least and greatest ratio of \
    any round in brackets: it says more than the absolute value, which depends on the machine and the hour. A bar that would \
    dwarf the others is cut, with a jagged end; its number is true. Percentile curves read so: at “99”, 99 of 100 were \
    faster than the line; lower is better, and a line that stays flat to the right has no stragglers.";

/// What the CPU figures cover.
pub const ABOUT_CPU: &str = "CPU is the candidate's whole process tree, user and system, from the processes' CPU clocks; the \
    client and the stub upstream run in processes of their own and are not in it, though they share the machine.";

/// The figures that stand at the top, by section and key.
pub const AT_A_GLANCE: [(&str, &str, &str); 13] = [
    ("setup", "tunnels_per_s", "Tunnels opened per second"),
    ("setup", "cpu_per_tunnel", "CPU per tunnel"),
    ("setup", "ready_p50", "Time to open one, median, busy machine"),
    ("open", "ready_p999", "Time to open one, 99.9 %, steady arrivals"),
    ("legs", "ready_legs", "Trips to an upstream far away"),
    ("hold", "rss_per_tunnel", "Own memory per idle tunnel"),
    ("hold", "kernel_net_per_tunnel", "Kernel memory per idle tunnel"),
    ("pingpong", "cpu_per_message", "CPU per 1 KiB message"),
    ("pingpong:1", "message_p50", "Round trip of a message, median"),
    ("http", "requests_per_cpu_s", "Plain HTTP requests per second of CPU"),
    ("http", "request_p50", "Time of a request, median"),
    ("bulk-down", "cpu_per_gib", "CPU per GiB down"),
    ("bulk-up", "cpu_per_gib", "CPU per GiB up"),
];
