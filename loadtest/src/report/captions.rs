//! Explains each measurement to somebody who has never seen it.

/// What a measurement shows and why it matters, by the first part of its name: `hold` for `hold:3000`.
pub fn explain(name: &str) -> &'static str {
    match name.split(':').next().unwrap_or_default() {
        "hold" => {
            "Many clients keep a connection open without using it, as browsers, database drivers and message queues \
             do. The memory that such a tunnel needs decides how many fit on a machine. RSS is the candidate's own \
             memory; kernel memory is for the sockets. Afterwards every tunnel must still carry data."
        }
        "setup" => {
            "A client opens a tunnel, exchanges 64 bytes and closes it, over and over. This is the cost of short \
             connections. Candidates that authenticate need two requests to the upstream, plain relays need one."
        }
        "open" => {
            "Tunnels are started on a fixed schedule, whether earlier ones are done or not, and latency counts from the \
             scheduled start. A stall of the candidate is fully visible here; a client that waits for its turn would \
             hide it."
        }
        "legs" => {
            "The upstream answers 20 ms late, as if it were far away. What matters now is the number of round trips \
             that a candidate needs before a tunnel is open."
        }
        "pingpong" => {
            "Small messages go back and forth on tunnels that stay open, as in remote calls or database sessions. What a \
             candidate adds to each message is its latency."
        }
        "fairness" => {
            "Small messages go back and forth, at first alone, then beside one download that takes all it can get. What \
             matters is how much longer the messages take then: a bulk transfer must not starve the others."
        }
        "http" | "http-post" => {
            "Clients send plain http:// requests through the proxy, one after the other on connections that stay open. A \
             connection to the upstream is authenticated once and then carries many requests, so what matters is the \
             work per request: reading, parsing, forwarding. HAProxy, nginx, Squid and the direct connection use an \
             upstream that demands no authentication."
        }
        "bulk-down" => "Origins send as fast as they can through a few tunnels, and the client checks every byte.",
        "bulk-up" => {
            "Clients send as fast as they can through a few tunnels, and the origin confirms what it received."
        }
        _ => "",
    }
}

/// How to read the charts.
pub const HOW_TO_READ: &str = "Each candidate was started again for each measurement, and the candidates took turns \
    (A B C, A B C, …), so that slow phases of the machine affect all of them. A bar is the median of the rounds; the \
    thin line on it reaches from the least to the greatest value. The number after × is the ratio to the base \
    candidate, with the least and greatest ratio of any round in brackets; it is more reliable than the absolute \
    value, which depends on the machine and on other load. A bar that would dwarf the others is cut off with a \
    jagged end, but its number is exact. In a percentile curve, 99 of 100 were faster than the line at “99”. Lower \
    is better, and a line that stays flat to the right has no outliers.";

/// What the CPU figures cover.
pub const ABOUT_CPU: &str = "CPU is the user and system time of the candidate's whole process tree, from the \
    processes' CPU clocks. The client and the stub upstream run in other processes and are not included, although \
    they share the machine.";

/// The figures in the table at the top, by section and key.
pub const AT_A_GLANCE: [(&str, &str, &str); 13] = [
    ("setup", "tunnels_per_s", "Tunnels opened per second"),
    ("setup", "cpu_per_tunnel", "CPU per tunnel"),
    ("setup", "ready_p50", "Time to open one, median, under load"),
    ("open", "ready_p999", "Time to open one, 99.9 %, fixed rate"),
    ("legs", "ready_legs", "Round trips to open one, distant upstream"),
    ("hold", "rss_per_tunnel", "Process memory per idle tunnel"),
    ("hold", "kernel_net_per_tunnel", "Kernel memory per idle tunnel"),
    ("pingpong", "cpu_per_message", "CPU per 1 KiB message"),
    ("pingpong:1", "message_p50", "Round trip of a message, median"),
    ("http", "requests_per_cpu_s", "Plain HTTP requests per second of CPU"),
    ("http", "request_p50", "Request latency, median"),
    ("bulk-down", "cpu_per_gib", "CPU per GiB down"),
    ("bulk-up", "cpu_per_gib", "CPU per GiB up"),
];
