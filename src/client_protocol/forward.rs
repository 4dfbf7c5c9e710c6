//! Static forwards: the destination is the listener's, and all that the client sends goes there.

use super::{Demand, DestinationSource, ReadOptions, Reading, Rejected, ShownLogin, Target};
use crate::auth::Request;
use crate::fault::{At, Cause};
use crate::forward;
use crate::http::{Authority, RequestSummary};

/// What the gateway calls it in Via (RFC 9110 §7.6.3).
const VIA: &str = "TCP/1";

/// The demand of every client of a listener with this target.
pub fn demand(target: &str, options: &ReadOptions<'_>) -> Result<Reading, Box<Rejected>> {
    let authority = Authority::parse(target).map_err(|error| {
        let fault = At::ReadHead.fault(Cause::RequestMalformed, error.to_string());
        Box::new(Rejected { fault, asked: RequestSummary::default() })
    })?;
    let mut fields = Vec::new();
    forward::append_via_received(VIA, &options.forward, &mut fields);
    let request = Request::connect(target, fields);
    let (target, login) = (Target::of(&authority), ShownLogin::Nothing);
    Ok(Reading::Demand(Box::new(Demand {
        request,
        target,
        login,
        source: DestinationSource::Listener,
        original: None,
    })))
}
