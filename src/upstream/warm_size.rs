//! How many connections may be pre-challenged.

/// The most connections that a shard keeps pre-challenged for an upstream and an identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WarmSize {
    /// As many as the present demand can use.
    #[default]
    Auto,
    /// A number that the operator has chosen; 0 for none.
    Fixed(usize),
}

impl WarmSize {
    /// Whether no connection is ever pre-challenged.
    #[must_use]
    pub fn is_off(self) -> bool {
        self == WarmSize::Fixed(0)
    }
}
