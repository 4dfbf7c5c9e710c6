//! What to do about a verdict: advice, and lines for the configuration.

use std::fmt;

use toml::Value;

/// A piece of advice.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Advice {
    /// Its identifier, for programs.
    pub id: &'static str,
    /// Its text, for people.
    pub text: String,
}

/// A line for the TOML file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub key: &'static str,
    pub value: Value,
}

impl Line {
    pub(super) fn new(key: &'static str, value: impl Into<Value>) -> Line {
        Line { key, value: value.into() }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} = {}", self.key, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_toml() {
        assert_eq!(Line::new("upstream", "p:1").to_string(), "upstream = \"p:1\"");
        assert_eq!(Line::new("user", r"CORP\svc").to_string(), r"user = 'CORP\svc'");
        assert_eq!(Line::new("allow_basic", true).to_string(), "allow_basic = true");
    }
}
