//! The names in a client's certificate.

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// What the URI of a SPIFFE id begins with.
pub(super) const SPIFFE: &str = "spiffe://";

/// The subject alternative names of a client's certificate that can name a principal.
///
/// The common name is none of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The SPIFFE ids, as they are.
    pub(super) spiffe: Vec<String>,
    /// The DNS names, in lower case.
    pub(super) dns: Vec<String>,
}

impl Names {
    /// Returns the names in a certificate that was verified. One that cannot be parsed has none.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Self::default() };
        let spiffe = certificate.valid_uri_names().filter(|name| name.starts_with(SPIFFE)).map(str::to_owned);
        let dns = certificate.valid_dns_names().map(str::to_ascii_lowercase);
        Self { spiffe: spiffe.collect(), dns: dns.collect() }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn names_are_spiffe_ids_and_dns_names_and_never_the_common_name() {
        let mut params = CertificateParams::new(vec!["Billing.Example.com".to_owned()]).unwrap();
        for uri in ["spiffe://example.com/Billing", "https://example.com/billing"] {
            params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        }
        params.subject_alt_names.push(SanType::Rfc822Name("admin@example.com".try_into().unwrap()));
        params.distinguished_name.push(DnType::CommonName, "admin.example.com");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let names = Names::of(certificate.der());
        assert_eq!(names.spiffe, ["spiffe://example.com/Billing"]);
        assert_eq!(names.dns, ["billing.example.com"]);
        assert_eq!(Names::of(&CertificateDer::from(vec![0x30, 0])), Names::default());
    }
}
