//! The settings of the limits.

use super::{Fallback, Key, Kind, Places};
use crate::config::values::format_size;
use crate::config::{MAX_SHARDS, machine};
use crate::limits;

pub(super) const LIMITS: &[Key] = &[
    Key {
        name: "shards",
        flag: "shards",
        places: Places::Everywhere,
        kind: Kind::Integer,
        value_name: "NUMBER",
        heading: "Limits",
        help: "The number of event loops, each on its own thread",
        default: Fallback::Machine("one per available core", || {
            std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MAX_SHARDS)).to_string()
        }),
    },
    Key {
        name: "max_tunnels",
        flag: "max-tunnels",
        places: Places::Everywhere,
        kind: Kind::Integer,
        value_name: "NUMBER",
        heading: "Limits",
        help: "The maximum number of client connections in the whole process; reduced to what the limit on open files \
               allows",
        default: Fallback::Value(|| limits::MAX_TUNNELS.to_string()),
    },
    Key {
        name: "limits.tunnels_per_client",
        flag: "tunnels-per-client",
        places: Places::Everywhere,
        kind: Kind::Integer,
        value_name: "NUMBER",
        heading: "Limits",
        help: "The maximum number of open connections from one client address, so that one client cannot use up all of \
               max_tunnels; 0 sets no limit",
        default: Fallback::Value(|| "0".into()),
    },
    Key {
        name: "limits.new_tunnels_per_client",
        flag: "new-tunnels-per-client",
        places: Places::Everywhere,
        kind: Kind::Integer,
        value_name: "NUMBER",
        heading: "Limits",
        help: "The maximum number of new connections per second from one client address; 0 sets no limit",
        default: Fallback::Value(|| "0".into()),
    },
    Key {
        name: "limits.head",
        flag: "head-limit",
        places: Places::Everywhere,
        kind: Kind::Size,
        value_name: "SIZE",
        heading: "Limits",
        help: "The maximum size of a request or response head, from 1KiB to 1MiB. It also limits the total size of all \
               interim (1xx) responses to one request",
        default: Fallback::Value(|| format_size(limits::HEAD_LIMIT_BYTES)),
    },
    Key {
        name: "limits.fields",
        flag: "field-limit",
        places: Places::Everywhere,
        kind: Kind::Integer,
        value_name: "NUMBER",
        heading: "Limits",
        help: "The maximum number of field lines in a request or response head, from 16 to 10000",
        default: Fallback::Value(|| limits::FIELD_LIMIT.to_string()),
    },
    Key {
        name: "limits.pipes_per_shard",
        flag: "pipes-per-shard",
        places: Places::Everywhere,
        kind: Kind::Integer,
        value_name: "NUMBER",
        heading: "Limits",
        help: "How many pipes each shard may use at the same time to splice bulk data; with 0 all data is copied",
        default: Fallback::Value(|| limits::PIPES_PER_SHARD.to_string()),
    },
    Key {
        name: "limits.tcp_probes",
        flag: "tcp-probes",
        places: Places::Everywhere,
        kind: Kind::Integer,
        value_name: "NUMBER",
        heading: "Limits",
        help: "How many TCP keep-alive probes may stay unanswered before a connection is closed, from 1 to 127",
        default: Fallback::Value(|| limits::TCP_PROBES.to_string()),
    },
    Key {
        name: "limits.memory",
        flag: "memory-limit",
        places: Places::Everywhere,
        kind: Kind::Size,
        value_name: "SIZE",
        heading: "Limits",
        help: "The maximum memory for the buffered data of all requests and responses in progress, at least 4MiB; at \
               this limit new requests get 503. 0B sets no limit",
        default: Fallback::Machine("half of the memory of the control group or the machine", || {
            format_size(machine::memory_bytes() / 2)
        }),
    },
    Key {
        name: "limits.socket_buffer",
        flag: "socket-buffer",
        places: Places::Everywhere,
        kind: Kind::Size,
        value_name: "SIZE",
        heading: "Limits",
        help: "The maximum amount of data that a socket buffers in each direction for a peer that does not read, up to \
               64MiB; 0B leaves it to the kernel",
        default: Fallback::Value(|| format_size(0)),
    },
];
