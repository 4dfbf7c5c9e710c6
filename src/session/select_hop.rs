//! Between the request's head and the first dial: which way it goes, and as whom.

use std::net::IpAddr;
use std::sync::Arc;

use super::authenticate::{self, Authenticate};
use super::dial::{Attempt, Dial, Wish};
use super::direct::Direct;
use super::exchange::Exchange;
use super::read_request::Pinned;
use super::reply::Reply;
use super::{Client, Context, Step};
use crate::auth::{Handshake, Request};
use crate::egress::{ClientError, CurrentEgress, Egress, Hop, LoginError, OnHop, Shown, Tried};
use crate::event::{DIALS, Endpoint, EventToken, Key};
use crate::fault::{At, Cause, Fault};
use crate::forward::ForwardRequest;
use crate::http::{Authority, Fields};
use crate::metrics::Path;
use crate::pool;
use crate::route::Decision;
use crate::upstream::HostPort;

/// A request that is on its way.
pub(super) struct Departure {
    pub request: Request,
    pub way: Way,
    /// What the client sent behind its head.
    pub leftover: Vec<u8>,
    /// The upstream connection that only this client may use.
    pub pinned: Option<Box<Pinned>>,
}

/// Which way a request goes.
pub(super) enum Way {
    /// Through an upstream.
    Through {
        wish: Wish,
        /// The upstream is asked without credentials first.
        plainly: bool,
    },
    /// To its origin.
    Straight(HostPort),
}

impl Way {
    /// Decides for a destination and a client.
    ///
    /// # Errors
    /// The fault that answers the request.
    pub(super) fn find(
        egress: &CurrentEgress,
        destination: &Authority<'_>,
        fields: &Fields<'_>,
        listener: usize,
        client: IpAddr,
        now_ms: u64,
    ) -> Result<Way, Fault> {
        let identity = egress.identity_of(listener, client, &Shown::read(fields), now_ms).map_err(client_fault)?;
        match egress.decide(destination) {
            Decision::Deny => Err(fault(Cause::DestinationDenied, format!("the routes deny {destination}"))),
            Decision::Direct => destination
                .to_string()
                .parse()
                .map(Way::Straight)
                .map_err(|error| fault(Cause::RequestMalformed, format!("{error}"))),
            Decision::Group(group) => Ok(Way::Through {
                wish: Wish { group, identity, tried: Tried::default() },
                plainly: egress.rules.goes_without_credentials(destination.host),
            }),
        }
    }
}

impl Departure {
    /// Sets out; gives up at once where no upstream is up, or its credential guard is closed.
    pub(super) fn begin(self, key: Key, client: &mut Client, context: &mut Context) -> Step {
        let Departure { request, way, leftover, pinned } = self;
        let forward = request.forward().cloned();
        let (mut wish, plainly) = match way {
            Way::Straight(origin) => {
                if let Some(request) = &forward
                    && let Some(Pinned { upstream, number, .. }) = fitting(pinned, request.origin(), None, client)
                {
                    return Exchange::straight(Arc::clone(request), upstream, number, leftover, key, client, context);
                }
                return Direct::begin(origin, forward, leftover, key, client, context);
            }
            Way::Through { wish, plainly } => (wish, plainly),
        };
        let egress = context.settings.egress.egress();
        let (member, hop) = match first_hop(&egress, &mut wish, &request, context.now_ms()) {
            Ok((member, hop)) => (member, Arc::clone(hop)),
            Err(fault) => return Reply::to_fault(fault, client, context),
        };
        client.record.on_hop = Some(OnHop::new(&hop));
        let mut attempt = Attempt {
            handshake: Handshake::new(request, hop.credentials.clone(), context.settings.head_limit_bytes)
                .with_field_limit(context.settings.field_limit),
            egress,
            hop,
            wish,
            member,
            leftover,
            started_us: context.now_us,
            until_ms: context.now_ms() + context.settings.timeouts.handshake,
            number: 0,
            path: Path::Cold,
            waiting: None,
            scout: None,
            challenged_ms: 0,
            plainly,
            asked_on_kept: false,
            failed: Vec::new(),
        };
        if let Some(request) = &forward
            && let Some(pinned) = fitting(pinned, request.origin(), Some(&attempt.hop), client)
        {
            (attempt.number, attempt.path) = (pinned.number, Path::Kept);
            return on_kept(attempt, request, pinned.upstream, key, client, context);
        }
        if plainly {
            attempt.handshake.ask_plainly();
            return Dial::anew(attempt, key, client, context);
        }
        let may_be_kept = forward.is_some() || attempt.hop.habits.takes_connect_on_kept(context.now_ms());
        // Not 0, which a connection that was kept before may have had at this tunnel.
        attempt.number = u8::try_from(client.record.requests % u32::from(DIALS)).unwrap_or(0);
        let can_be_repeated = attempt.handshake.request().is_idempotent();
        let token = EventToken::upstream(key, attempt.number);
        let (pools, loan) = context.pools();
        if may_be_kept && let Some(upstream) = pools.keep_alive.take(&attempt.hop, token, can_be_repeated, &loan) {
            attempt.path = Path::Kept;
            if let Some(request) = &forward {
                return on_kept(attempt, request, upstream, key, client, context);
            }
            // Asked without credentials, and proved anew on the same connection if that is what it takes.
            attempt.handshake.ask_plainly();
            return Authenticate::begin(attempt, upstream, key, client, context);
        }
        let cut_off = attempt.hop.upstream.health.cuts_off(context.now_ms(), attempt.handshake.request().origin());
        let (pools, loan) = context.pools();
        let hop = &attempt.hop;
        let found = if cut_off { None } else { pools.pre_challenged.take(hop, token, can_be_repeated, &loan) };
        match found {
            Some(found) => {
                let own = std::mem::replace(&mut attempt.handshake, found.handshake);
                attempt.handshake.retarget(own.into_request());
                attempt.challenged_ms = found.challenged_ms;
                attempt.path = Path::Warm;
                Authenticate::resume(attempt, found.upstream, key, client, context)
            }
            None => {
                attempt.choose_first_leg(context.now_ms());
                Dial::anew(attempt, key, client, context)
            }
        }
    }
}

fn on_kept(
    attempt: Attempt,
    request: &Arc<ForwardRequest>,
    upstream: Endpoint,
    key: Key,
    client: &mut Client,
    context: &mut Context,
) -> Step {
    client.record.path = Some(Path::Kept);
    attempt.hop.metrics.request(Path::Kept);
    Exchange::on_kept(attempt, Arc::clone(request), upstream, key, client, context)
}

/// The client's own upstream connection if it leads to the same origin in the same way, and still stands. One that does not is
/// closed, and the client's next connection may be shared again.
fn fitting(pinned: Option<Box<Pinned>>, origin: &str, hop: Option<&Arc<Hop>>, client: &mut Client) -> Option<Pinned> {
    let mut pinned = *pinned?;
    let same_way = match (&pinned.hop, hop) {
        (Some(own), Some(hop)) => Arc::ptr_eq(own, hop),
        (None, None) => true,
        _ => false,
    };
    let fits = same_way && *pinned.origin == *origin && pool::is_at_rest(&mut pinned.upstream);
    client.record.pinned = fits;
    fits.then_some(pinned)
}

/// The first upstream that is up and whose identity may be proved there now.
fn first_hop<'a>(
    egress: &'a Egress,
    wish: &mut Wish,
    request: &Request,
    now_ms: u64,
) -> Result<(usize, &'a Arc<Hop>), Fault> {
    let mut refused = None;
    while let Some((member, hop)) = wish.next(egress) {
        match hop.identity.guard.refuses(now_ms, hop.upstream.name(), request.method(), request.origin()) {
            Some(refusal) => refused = refused.or(Some(refusal)),
            None => return Ok((member, hop)),
        }
    }
    if refused.is_none()
        && let Some((member, hop)) = wish.next_for_trial(egress, request.origin(), now_ms)
    {
        match hop.identity.guard.refuses(now_ms, hop.upstream.name(), request.method(), request.origin()) {
            Some(refusal) => refused = Some(refusal),
            None => return Ok((member, hop)),
        }
    }
    Err(refused.map_or_else(|| nobody(egress, wish), authenticate::refusal_fault))
}

/// Why there is no upstream for a request.
fn nobody(egress: &Egress, wish: &Wish) -> Fault {
    let why = egress.why_down(wish.group);
    match (why.is_empty(), egress.takes_logins()) {
        (false, _) => fault_at_dial(Cause::UpstreamsDown, format!("no upstream is up: {why}")),
        (true, true) => fault(Cause::LoginRequired, "the gateway needs to be told a user and a password"),
        (true, false) => fault(Cause::NoIdentity, "no identity is configured for this client"),
    }
}

fn client_fault(error: ClientError) -> Fault {
    let (cause, detail) = match error {
        ClientError::Login(LoginError::Wrong) => (Cause::LoginRequired, "the gateway knows no such user and password"),
        ClientError::Login(LoginError::Unreadable) => (
            Cause::LoginRequired,
            "the Basic credentials for the gateway cannot be read: they must be one field with the base64 of user:password in UTF-8",
        ),
        ClientError::Login(LoginError::Throttled) => (
            Cause::LoginThrottled,
            "too many wrong logins came from this address; for a few seconds none is looked at, not even a right one",
        ),
        ClientError::ListenerWithdrawn => (
            Cause::ListenerWithdrawn,
            "a reload took this listening address away from its identity; it closes when the gateway is restarted",
        ),
    };
    fault(cause, detail)
}

fn fault(cause: Cause, detail: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::new(At::ReadHead, cause, detail)
}

fn fault_at_dial(cause: Cause, detail: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::new(At::Dial, cause, detail)
}
