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
            "When a certificate expires, in seconds since 1970, by upstream and owner (server, client); 0 if none is known",
            &["upstream", "owner"],
        )?;
        Ok(TlsMetrics { ends })
    }

    /// When the certificate of this owner expires, in seconds since 1970; `None` if none is known.
    pub fn certificate(&self, upstream: &str, owner: CertificateOwner, end: Option<i64>) {
        self.ends.with_label_values(&[upstream, owner.label()]).set(end.unwrap_or_default());
    }

    /// Removes the certificates of an upstream.
    pub fn forget(&self, upstream: &str) {
        for owner in CertificateOwner::ALL {
            // It may not exist.
            let _ = self.ends.remove_label_values(&[upstream, owner.label()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::Registry;
    use prometheus::core::Collector;

    #[test]
    fn a_certificate_is_0_while_none_is_known_and_is_forgotten_with_its_upstream() {
        let metrics = TlsMetrics::new(&Maker(Registry::new())).unwrap();
        let end = |upstream: &str, owner: &str| metrics.ends.with_label_values(&[upstream, owner]).get();
        metrics.certificate("a", CertificateOwner::Server, Some(5));
        metrics.certificate("b", CertificateOwner::Client, Some(6));
        assert_eq!((end("a", "server"), end("b", "client")), (5, 6));
        metrics.certificate("a", CertificateOwner::Server, None);
        assert_eq!(end("a", "server"), 0);
        metrics.forget("a");
        assert_eq!(metrics.ends.collect()[0].get_metric().len(), 1);
    }
}
