//! Static forwards: the destination is the listener's, and all that the client sends goes there.

use super::{Demand, DestinationSource, ReadOptions, Reading, Rejected, VIA_TCP};
use crate::fault::{At, Cause};
use crate::http::{Authority, RequestSummary};

/// The demand of every client of a listener with this target.
pub fn demand(target: &str, options: &ReadOptions<'_>) -> Result<Reading, Box<Rejected>> {
    let authority = Authority::parse(target).map_err(|error| {
        let fault = At::ReadHead.fault(Cause::RequestMalformed, error.to_string());
        Box::new(Rejected { fault, asked: RequestSummary::default() })
    })?;
    Ok(Reading::Demand(Demand::tunnel(&authority, VIA_TCP, DestinationSource::Listener, options)))
}
