//! OpenMetrics (<https://prometheus.io/docs/specs/om/open_metrics_spec/>): whether a scraper prefers it, and the text.

use std::borrow::Cow;

use super::encoding;

/// The content type of the text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The versions of the format that a scraper may ask for. The text is the same in both.
const VERSIONS: [&str; 2] = ["1.0.0", "0.0.1"];

/// Whether the Accept fields of a request prefer OpenMetrics to Prometheus' text format. Without a preference it is the
/// latter.
pub(super) fn is_preferred<'a>(fields: impl Iterator<Item = &'a [u8]>) -> bool {
    let (mut open_metrics, mut text) = (0, 0);
    for range in fields.filter_map(|field| std::str::from_utf8(field).ok()).flat_map(|field| field.split(',')) {
        let Some((media, version, weight)) = parse(range) else { continue };
        match media.as_str() {
            "application/openmetrics-text" if version.is_none_or(|version| VERSIONS.contains(&version)) => {
                open_metrics = open_metrics.max(weight);
            }
            "text/plain" | "text/*" | "*/*" => text = text.max(weight),
            _ => {}
        }
    }
    open_metrics > 0 && open_metrics >= text
}

/// The media type in lower case, its version, and its weight in thousandths. `None` for a malformed range.
fn parse(range: &str) -> Option<(String, Option<&str>, u16)> {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next()?.to_ascii_lowercase();
    let (mut version, mut weight) = (None, 1000);
    for part in parts {
        let (name, value) = part.split_once('=')?;
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "version" => version = Some(value),
            "q" => weight = encoding::thousandths(value)?,
            _ => {}
        }
    }
    Some((media, version, weight))
}

/// Prometheus' text format as OpenMetrics: the family of a counter has no `_total`, the bounds of buckets are written
/// as floats, and the text has an end.
pub(super) fn from_text(text: &str) -> String {
    let counters: Vec<&str> = text.lines().filter_map(counter).collect();
    let mut converted = String::with_capacity(text.len() + 16);
    for line in text.lines() {
        match line
            .strip_prefix("# HELP ")
            .map(|rest| ("# HELP ", rest))
            .or_else(|| line.strip_prefix("# TYPE ").map(|rest| ("# TYPE ", rest)))
        {
            Some((keyword, rest)) => {
                let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                let family = if counters.contains(&name) { name.strip_suffix("_total").unwrap_or(name) } else { name };
                let rest = if keyword == "# HELP " { rest.replace('"', "\\\"") } else { rest.to_owned() };
                converted.extend([keyword, family, " ", &rest]);
            }
            None => converted.push_str(&with_float_bound(line)),
        }
        converted.push('\n');
    }
    converted.push_str("# EOF\n");
    converted
}

/// The name of a counter, from the line that says its type.
fn counter(line: &str) -> Option<&str> {
    line.strip_prefix("# TYPE ")?.strip_suffix(" counter")
}

/// A bucket's sample with a whole bound as a float: `le="5"` becomes `le="5.0"`. `le` is the last label of a bucket, so
/// no value of another label can be taken for it.
fn with_float_bound(line: &str) -> Cow<'_, str> {
    let Some((before, rest)) = line.rsplit_once("le=\"") else { return line.into() };
    let is_bucket = line.split('{').next().is_some_and(|name| name.ends_with("_bucket"));
    match rest.split_once('"') {
        Some((bound, after)) if is_bucket && bound.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{before}le=\"{bound}.0\"{after}").into()
        }
        _ => line.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_field_chooses_the_format() {
        for (field, expected) in [
            ("application/openmetrics-text", true),
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", true),
            ("application/openmetrics-text;version=\"0.0.1\"", true),
            // Prometheus 2 and 3.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                true,
            ),
            ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.3", true),
            ("APPLICATION/OpenMetrics-Text, text/plain", true),
            ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;q=0.4", false),
            ("application/openmetrics-text;q=0, */*", false),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;version=2.0.0", false),
            ("application/openmetrics-text;q=2", false),
            ("application/openmetrics-text;nonsense", false),
            ("text/plain", false),
            ("*/*", false),
            ("", false),
        ] {
            assert_eq!(is_preferred(std::iter::once(field.as_bytes())), expected, "{field}");
        }
        assert!(!is_preferred(std::iter::empty()));
    }

    #[test]
    fn counters_lose_their_suffix_and_bounds_become_floats() {
        let text = "# HELP a_total It says \"a\"\n# TYPE a_total counter\na_total{le=\"5\"} 1\n\
                    # HELP b_total Not a counter\n# TYPE b_total gauge\nb_total 2\n\
                    # HELP h How long\n# TYPE h histogram\nh_bucket{x=\"le=\\\"5\\\"\",le=\"5\"} 1\n\
                    h_bucket{le=\"0.5\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_sum 4\nh_count 1\n";
        let expected = "# HELP a It says \\\"a\\\"\n# TYPE a counter\na_total{le=\"5\"} 1\n\
                    # HELP b_total Not a counter\n# TYPE b_total gauge\nb_total 2\n\
                    # HELP h How long\n# TYPE h histogram\nh_bucket{x=\"le=\\\"5\\\"\",le=\"5.0\"} 1\n\
                    h_bucket{le=\"0.5\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_sum 4\nh_count 1\n# EOF\n";
        assert_eq!(from_text(text), expected);
    }
}
