//! Which KDC is asked, in which order and how: UDP first for short requests, TCP for the others and where UDP has
//! failed, the next KDC when one does not answer.

use std::collections::VecDeque;
use std::net::IpAddr;

use crate::kerberos::KdcTransport;
use crate::limits;

/// A KDC's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KdcPlace {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The only transport to use, if the configuration says so.
    pub only: Option<KdcTransport>,
}

/// How requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryOptions {
    /// Longer requests go by TCP first, in bytes.
    pub udp_preference_limit: usize,
}

impl Default for DeliveryOptions {
    fn default() -> DeliveryOptions {
        DeliveryOptions { udp_preference_limit: limits::KDC_UDP_PREFERENCE_BYTES }
    }
}

/// One attempt to deliver a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Try {
    /// The KDC.
    pub place: KdcPlace,
    /// How it is asked.
    pub transport: KdcTransport,
}

/// The delivery of one request.
#[derive(Debug)]
pub struct Delivery {
    tries: VecDeque<Try>,
}

impl Delivery {
    /// For a request of this length, to any of these KDCs: each once by the preferred transport, then each by the other
    /// one, as far as the configuration allows.
    pub fn to_any(kdcs: &[KdcPlace], request_bytes: usize, options: DeliveryOptions) -> Delivery {
        let order = match request_bytes <= options.udp_preference_limit {
            true => [KdcTransport::Udp, KdcTransport::Tcp],
            false => [KdcTransport::Tcp, KdcTransport::Udp],
        };
        let tries = order.into_iter().flat_map(|transport| {
            let may_use = move |place: &&KdcPlace| place.only.is_none_or(|only| only == transport);
            kdcs.iter().filter(may_use).map(move |place| Try { place: *place, transport })
        });
        Delivery { tries: tries.take(limits::KDC_TRIES).collect() }
    }

    /// For a request that must reach one KDC at most: in the way in which that KDC has answered before.
    pub fn to_one(answered: Try) -> Delivery {
        Delivery { tries: VecDeque::from([answered]) }
    }

    /// What to try next; `None` if all has been tried.
    pub fn next_try(&mut self) -> Option<Try> {
        self.tries.pop_front()
    }

    /// The reply to this try does not fit a datagram (KRB_ERR_RESPONSE_TOO_BIG): the same KDC is asked by TCP next. It
    /// has processed the request already, and its reply was not an error.
    pub fn too_big_for_udp(&mut self, tried: Try) {
        if tried.transport == KdcTransport::Udp && tried.place.only != Some(KdcTransport::Udp) {
            self.tries.push_front(Try { transport: KdcTransport::Tcp, ..tried });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(last: u8, only: Option<KdcTransport>) -> KdcPlace {
        KdcPlace { address: IpAddr::from([10, 0, 0, last]), port: 88, only }
    }

    fn tried(mut delivery: Delivery) -> Vec<(IpAddr, KdcTransport)> {
        std::iter::from_fn(|| delivery.next_try()).map(|one| (one.place.address, one.transport)).collect()
    }

    #[test]
    fn udp_comes_first_for_short_requests_and_tcp_for_long_ones() {
        use KdcTransport::{Tcp, Udp};
        let kdcs = [place(1, None), place(2, Some(Tcp)), place(3, Some(Udp))];
        let at = |last: u8, transport| (kdcs[usize::from(last) - 1].address, transport);
        let to_any = |bytes| tried(Delivery::to_any(&kdcs, bytes, DeliveryOptions::default()));
        assert_eq!(to_any(1465), [at(1, Udp), at(3, Udp), at(1, Tcp), at(2, Tcp)]);
        assert_eq!(to_any(1466), [at(1, Tcp), at(2, Tcp), at(1, Udp), at(3, Udp)]);
        let many = vec![place(1, None); 1000];
        assert_eq!(tried(Delivery::to_any(&many, 1, DeliveryOptions::default())).len(), limits::KDC_TRIES);
    }

    #[test]
    fn a_reply_that_is_too_long_is_fetched_by_tcp_from_the_same_kdc() {
        let mut delivery = Delivery::to_any(&[place(1, None), place(2, None)], 100, DeliveryOptions::default());
        let first = delivery.next_try().unwrap();
        delivery.too_big_for_udp(first);
        let second = delivery.next_try().unwrap();
        assert_eq!((second.place, second.transport), (first.place, KdcTransport::Tcp));
        delivery.too_big_for_udp(second);
        assert_eq!(delivery.next_try().unwrap().place, place(2, None));
    }

    #[test]
    fn a_logon_attempt_is_delivered_once() {
        let one = Try { place: place(1, None), transport: KdcTransport::Udp };
        assert_eq!(tried(Delivery::to_one(one)).len(), 1);
    }
}
