//! The list of open tunnels, as log lines and as JSON.

use std::fmt::Write as _;

use crate::limits;
use crate::session::SessionSnapshot;
use crate::shard::Described;

/// The log target of the list of tunnels.
pub const TUNNELS: &str = "tunnels";

/// The tunnels of all shards, at about the same moment.
#[derive(Debug, Default)]
pub struct TunnelList {
    tunnels: Vec<SessionSnapshot>,
    left_out: usize,
    silent_shards: usize,
}

impl TunnelList {
    /// Adds the tunnels of a shard, up to [`limits::LISTED_TUNNELS`] in total.
    pub fn add(&mut self, mut described: Described) {
        let room = limits::LISTED_TUNNELS.saturating_sub(self.tunnels.len());
        self.left_out += described.left_out + described.tunnels.len().saturating_sub(room);
        described.tunnels.truncate(room);
        self.tunnels.append(&mut described.tunnels);
    }

    /// The number of listed tunnels.
    pub fn len(&self) -> usize {
        self.tunnels.len()
    }

    /// Whether no tunnel is listed.
    pub fn is_empty(&self) -> bool {
        self.tunnels.is_empty()
    }

    /// Records how many shards did not answer in time.
    pub fn without_shards(&mut self, silent: usize) {
        self.silent_shards = silent;
    }

    /// Logs one line per tunnel at level info, and one with the number of tunnels.
    pub fn log(&self) {
        for tunnel in &self.tunnels {
            let SessionSnapshot { shard, key, client, target, upstream, stage, age_ms, idle_ms, bytes_up, bytes_down } =
                tunnel;
            log::info!(
                target: TUNNELS,
                key:% = format_args!("{shard}.{}.{}", key.index, key.generation),
                client:% = client,
                target:% = if target.is_empty() { "-" } else { target },
                upstream:% = upstream,
                stage:% = stage,
                age_ms = *age_ms,
                idle_ms:% = idle_ms.map_or_else(|| "-".to_owned(), |ms| ms.to_string()),
                bytes_up = *bytes_up,
                bytes_down = *bytes_down;
                "tunnel open"
            );
        }
        let (listed, left_out) = (self.tunnels.len(), self.left_out);
        log::info!(target: TUNNELS, "tunnels open: {}, listed: {listed}, left out: {left_out}", listed + left_out);
        if self.silent_shards > 0 {
            log::warn!(target: TUNNELS, "event loops that did not answer, so their tunnels are missing: {}", self.silent_shards);
        }
    }

    /// One JSON object: `tunnels`, an array with one object per tunnel; `left_out`; `silent_shards`.
    pub fn to_json(&self) -> String {
        let mut json = String::with_capacity(64 + 256 * self.tunnels.len());
        json.push_str("{\"tunnels\":[");
        for (number, tunnel) in self.tunnels.iter().enumerate() {
            json.push_str(if number == 0 { "\n" } else { ",\n" });
            write_tunnel(&mut json, tunnel);
        }
        // Writing to a string cannot fail.
        let _ = writeln!(json, "],\"left_out\":{},\"silent_shards\":{}}}", self.left_out, self.silent_shards);
        json
    }
}

fn write_tunnel(json: &mut String, tunnel: &SessionSnapshot) {
    // Only the texts from a peer or an operator need escaping.
    let (target, upstream) = (quoted(&tunnel.target), quoted(&tunnel.upstream));
    let SessionSnapshot { shard, key, client, stage, age_ms, bytes_up, bytes_down, .. } = tunnel;
    let idle_ms = tunnel.idle_ms.map_or_else(|| "null".to_owned(), |ms| ms.to_string());
    let (index, generation) = (key.index, key.generation);
    let _ = write!(
        json,
        "{{\"key\":\"{shard}.{index}.{generation}\",\"client\":\"{client}\",\"target\":{target},\"upstream\":{upstream},\
         \"stage\":\"{stage}\",\"age_ms\":{age_ms},\"idle_ms\":{idle_ms},\"bytes_up\":{bytes_up},\"bytes_down\":{bytes_down}}}"
    );
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Key;

    fn tunnel(index: u32, target: &str, idle_ms: Option<u64>) -> SessionSnapshot {
        SessionSnapshot {
            shard: 1,
            key: Key { index, generation: 7 },
            client: "127.0.0.1:4000".parse().unwrap(),
            target: target.into(),
            upstream: "proxy:8080".into(),
            stage: "relay",
            age_ms: 12,
            idle_ms,
            bytes_up: 3,
            bytes_down: u64::MAX,
        }
    }

    #[test]
    fn json_has_every_field_and_escapes_text_from_peers() {
        let mut list = TunnelList::default();
        let tunnels = vec![tunnel(0, "a\"b\\:1", Some(5)), tunnel(1, "", None)];
        list.add(Described { tunnels, left_out: 2 });
        list.without_shards(1);
        let json: serde_json::Value = serde_json::from_str(&list.to_json()).unwrap();
        assert_eq!((&json["left_out"], &json["silent_shards"]), (&2.into(), &1.into()));
        let first = &json["tunnels"][0];
        assert_eq!(first["key"], "1.0.7");
        assert_eq!(first["target"], "a\"b\\:1");
        assert_eq!((&first["idle_ms"], &first["bytes_down"]), (&5.into(), &u64::MAX.into()));
        assert_eq!(json["tunnels"][1]["idle_ms"], serde_json::Value::Null);
    }

    #[test]
    fn tunnels_beyond_the_limit_are_only_counted() {
        let mut list = TunnelList::default();
        let many = || (0..6_000).map(|index| tunnel(index, "a:1", None)).collect();
        list.add(Described { tunnels: many(), left_out: 0 });
        list.add(Described { tunnels: many(), left_out: 10 });
        assert_eq!((list.tunnels.len(), list.left_out), (limits::LISTED_TUNNELS, 2_010));
    }
}
