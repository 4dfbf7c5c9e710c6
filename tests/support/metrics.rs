//! Reads the Prometheus text format, as far as the tests need it.

/// The sum of the samples of `name` with all of `labels`; `None` if there is no such sample.
pub fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let samples = text.lines().filter_map(|line| sample(line, name, labels));
    samples.fold(None, |total, value| Some(total.unwrap_or(0.0) + value))
}

/// The value on `line` if it is a sample of `name` with all of `labels`.
fn sample(line: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let (set, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.rsplit_once('}')?,
        None => ("", rest.strip_prefix(' ')?),
    };
    let has = |(key, value): &(&str, &str)| format!(",{set}").contains(&format!(",{key}=\"{value}\""));
    if !labels.iter().all(has) {
        return None;
    }
    value.split_whitespace().next()?.parse().ok()
}
