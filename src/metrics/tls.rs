//! The certificates of TLS to upstreams.

use prometheus::IntGaugeVec;

use super::Maker;

/// Whose certificate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateOwner {
    /// The upstream's, as it was accepted last.
    Server,
    /// The gateway's own.
    Client,
}

impl CertificateOwner {
    const ALL: [CertificateOwner; 2] = [CertificateOwner::Server, CertificateOwner::Client];

    fn label(self) -> &'static str {
        match self {
            CertificateOwner::Server => "server",
            CertificateOwner::Client => "client",
        }
    }
}

/// When certificates expire.
#[derive(Clone)]
pub struct TlsMetrics {
    ends: IntGaugeVec,
}

impl TlsMetrics {
    pub(super) fn new(make: &Maker) -> prometheus::Result<TlsMetrics> {
        let ends = make.gauges(
            "tls_certificate_end_timestamp_seconds",
            "When a certificate expires, in seconds since 1970, by upstream and owner: server, once a connection was made, or \
             client",
            &["upstream", "owner"],
        )?;
        Ok(TlsMetrics { ends })
    }

    /// When the certificate of this owner expires, in seconds since 1970; `None` if none is known.
    pub fn certificate(&self, upstream: &str, owner: CertificateOwner, end: Option<i64>) {
        match end {
            Some(end) => self.ends.with_label_values(&[upstream, owner.label()]).set(end),
            // There may be none.
            None => drop(self.ends.remove_label_values(&[upstream, owner.label()])),
        }
    }

    /// Removes the certificates of an upstream.
    pub fn forget(&self, upstream: &str) {
        CertificateOwner::ALL.into_iter().for_each(|owner| self.certificate(upstream, owner, None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::Registry;
    use prometheus::core::Collector;

    #[test]
    fn a_certificate_is_exported_while_it_is_known() {
        let metrics = TlsMetrics::new(&Maker(Registry::new())).unwrap();
        let exported = || metrics.ends.collect()[0].get_metric().len();
        metrics.certificate("a", CertificateOwner::Server, None);
        assert_eq!(exported(), 0);
        metrics.certificate("a", CertificateOwner::Server, Some(5));
        metrics.certificate("a", CertificateOwner::Client, Some(6));
        metrics.certificate("b", CertificateOwner::Server, Some(7));
        assert_eq!(exported(), 3);
        metrics.certificate("a", CertificateOwner::Client, None);
        assert_eq!(exported(), 2);
        metrics.forget("a");
        assert_eq!((exported(), metrics.ends.with_label_values(&["b", "server"]).get()), (1, 7));
    }
}
