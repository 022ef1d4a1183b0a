//! What a certificate says: whose it is, under which names, from when until when (X.509, RFC 5280).
//!
//! Called when certificates are loaded, and for a client's certificate after TLS has verified it. Nothing here
//! decides whether a certificate is to be trusted.

use std::net::IpAddr;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;

/// A certificate's contents, as far as a broker cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The Common Name of its subject.
    pub common_name: Option<String>,
    /// Its Subject Alternative Names (§4.2.1.6).
    pub alternative_names: AlternativeNames,
    /// The moment from which on it is valid.
    pub not_before: Moment,
    /// The moment until which it is valid.
    pub not_after: Moment,
}

/// Subject Alternative Names by their kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AlternativeNames {
    /// Host names; a server's may begin with `*.`.
    pub dns: Vec<String>,
    /// Mail addresses.
    pub emails: Vec<String>,
    /// URIs, such as SPIFFE's.
    pub uris: Vec<String>,
    /// IP addresses.
    pub addresses: Vec<IpAddr>,
}

/// A moment, in seconds since the beginning of 1970 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

impl Certificate {
    /// Reads a certificate in DER; `None` if it is none.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut names = AlternativeNames::default();
        if let Ok(Some(extension)) = certificate.subject_alternative_name() {
            for name in &extension.value.general_names {
                names.add(name);
            }
        }
        let common_name = certificate.subject().iter_common_name().next();
        let validity = certificate.validity();
        Some(Self {
            common_name: common_name.and_then(|name| name.as_str().ok()).map(str::to_owned),
            alternative_names: names,
            not_before: Moment::from(validity.not_before),
            not_after: Moment::from(validity.not_after),
        })
    }

    /// Whether it is for a host or an address (RFC 6125 §6.4). The Common Name does not count.
    pub fn is_for(&self, server: &str) -> bool {
        match server.parse::<IpAddr>() {
            Ok(address) => self.alternative_names.addresses.contains(&address),
            Err(_) => self.alternative_names.dns.iter().any(|pattern| matches_host(pattern, server)),
        }
    }

    /// Whose it is, for people.
    pub fn subject(&self) -> String {
        let names = &self.alternative_names;
        let mut all: Vec<String> =
            [&names.dns, &names.emails, &names.uris].into_iter().flatten().cloned().collect();
        all.extend(names.addresses.iter().map(ToString::to_string));
        match (&self.common_name, all.is_empty()) {
            (Some(name), true) => format!("CN={name}"),
            (Some(name), false) => format!("CN={name}, for {}", all.join(", ")),
            (None, true) => "without a name".to_owned(),
            (None, false) => format!("for {}", all.join(", ")),
        }
    }
}

impl AlternativeNames {
    fn add(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => self.dns.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => self.emails.push((*name).to_owned()),
            GeneralName::URI(name) => self.uris.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                self.addresses.extend(four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)));
            }
            GeneralName::OtherName(..)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::RegisteredID(_)
            | GeneralName::Invalid(..) => {}
        }
    }
}

impl From<ASN1Time> for Moment {
    fn from(time: ASN1Time) -> Self {
        Self(time.timestamp())
    }
}

impl std::fmt::Display for Moment {
    /// `2026-11-24 04:06:00 UTC`
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match ASN1Time::from_timestamp(self.0) {
            Ok(time) => {
                let time = time.to_datetime();
                let (date, clock) = (time.date(), time.time());
                let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
                let (hour, minute, second) = clock.as_hms();
                write!(formatter, "{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
            }
            Err(_) => write!(formatter, "{} s after the beginning of 1970", self.0),
        }
    }
}

/// When the next edition of a revocation list (DER) is due; `None` if it does not say, or is no such list.
pub fn next_update(list: &[u8]) -> Option<Moment> {
    let (_, list) = CertificateRevocationList::from_der(list).ok()?;
    list.next_update().map(Moment::from)
}

/// Whether a host is meant by a name that may have `*` for its first label (RFC 6125 §6.4.3).
pub fn matches_host(pattern: &str, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    match pattern.strip_prefix("*.") {
        Some(parent) => host.split_once('.').is_some_and(|(label, rest)| {
            !label.is_empty() && parent.contains('.') && rest.eq_ignore_ascii_case(parent)
        }),
        None => pattern.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::SanType;

    #[test]
    fn a_wildcard_stands_for_one_label() {
        for (pattern, host, matches) in [
            ("mqtt.example.org", "MQTT.example.org", true),
            ("mqtt.example.org", "mqtt.example.org.", true),
            ("*.example.org", "mqtt.example.org", true),
            ("*.example.org", "a.mqtt.example.org", false),
            ("*.example.org", "example.org", false),
            ("*.example.org", ".example.org", false),
            ("*.org", "example.org", false),
            ("*", "example", false),
        ] {
            assert_eq!(matches_host(pattern, host), matches, "{pattern} {host}");
        }
    }

    #[test]
    fn a_certificate_says_whose_it_is() {
        let mut parameters = rcgen::CertificateParams::new(vec![
            "mqtt.example.org".to_owned(),
            "*.example.net".to_owned(),
            "192.0.2.7".to_owned(),
        ])
        .unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "the broker");
        parameters.not_before = rcgen::date_time_ymd(2026, 1, 2);
        parameters.not_after = rcgen::date_time_ymd(2027, 3, 4);
        let made = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let certificate = Certificate::read(made.der()).unwrap();
        assert_eq!(certificate.subject(), "CN=the broker, for mqtt.example.org, *.example.net, 192.0.2.7");
        assert_eq!(certificate.not_after.to_string(), "2027-03-04 00:00:00 UTC");
        assert!(certificate.not_before < certificate.not_after);
        for (server, is_for) in [
            ("mqtt.example.org", true),
            ("a.example.net", true),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("the broker", false),
        ] {
            assert_eq!(certificate.is_for(server), is_for, "{server}");
        }
        parameters.subject_alt_names = [
            SanType::URI("spiffe://example.org/a".try_into().unwrap()),
            SanType::Rfc822Name("a@example.org".try_into().unwrap()),
            SanType::URI("urn:b".try_into().unwrap()),
        ]
        .into();
        let device = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let names = Certificate::read(device.der()).unwrap().alternative_names;
        assert_eq!(
            (names.emails, names.uris),
            (vec!["a@example.org".to_owned()], vec!["spiffe://example.org/a".to_owned(), "urn:b".to_owned()])
        );
        for length in 0..made.der().len() {
            assert_eq!(Certificate::read(&made.der()[..length]), None, "cut at {length}");
        }
    }
}
