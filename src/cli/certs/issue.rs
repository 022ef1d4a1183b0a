//! An authority, and what it signs before its key is forgotten: a server's certificate and a client's.
//!
//! Nothing is written here. What always holds: the server's certificate is good for the hosts and for nothing else,
//! the client's for no server; all end on the same day.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};

use crate::net::Moment;

/// In whose name the client's certificate is.
pub(super) const CLIENT: &str = "client";

/// Two years, less than the 825 days that Apple's systems accept.
const VALID_FOR: Duration = Duration::from_secs(730 * 24 * 60 * 60);

/// Valid since yesterday, for clients whose clocks are late.
const VALID_BEFORE: Duration = Duration::from_secs(24 * 60 * 60);

/// RFC 5280, upper bound of a Common Name.
const LONGEST_COMMON_NAME: usize = 64;

/// RFC 1035 §2.3.4.
const LONGEST_HOST: usize = 253;
const LONGEST_LABEL: usize = 63;

/// All of it, in PEM.
#[derive(Debug)]
pub(super) struct Issued {
    /// The authority's certificate.
    pub(super) authority: String,
    /// The authority's name.
    pub(super) name: String,
    pub(super) server: Pair,
    pub(super) client: Pair,
    /// The first host that a client can connect to: one without a wildcard.
    pub(super) reachable: Option<String>,
    /// The last moment at which they are valid.
    pub(super) until: Moment,
}

/// A certificate and its key.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// Makes everything for a server that is reached by these hosts.
///
/// # Errors
/// When the system gives no random numbers.
pub(super) fn issue(hosts: &[String]) -> Result<Issued, Box<dyn std::error::Error>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let (since, until) = (now - VALID_BEFORE, now + VALID_FOR);
    let parameters = |common_name: &str, hosts: &[String]| {
        let mut parameters = CertificateParams::new(hosts.to_vec())?;
        let epoch = date_time_ymd(1970, 1, 1);
        (parameters.not_before, parameters.not_after) = (epoch + since, epoch + until);
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        Ok::<_, rcgen::Error>(parameters)
    };

    // A name of its own for each authority: some clients look their authorities up by name.
    let mut random = [0; 4];
    getrandom::fill(&mut random)?;
    let name = format!("Fulmar authority {:08x}", u32::from_be_bytes(random));
    let mut authority = parameters(&name, &[])?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let certificate = authority.self_signed(&key)?.pem();
    let issuer = Issuer::new(authority, key);

    let sign = |common_name: &str, hosts: &[String], purpose: ExtendedKeyUsagePurpose| {
        let mut parameters = parameters(common_name, hosts)?;
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.use_authority_key_identifier_extension = true;
        // All that a key for ECDSA does in TLS.
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![purpose];
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &issuer)?.pem();
        Ok::<_, rcgen::Error>(Pair { certificate, key: key.serialize_pem() })
    };
    // The name that counts is among the alternative names; this one is for people.
    let server_name = hosts.first().filter(|host| host.len() <= LONGEST_COMMON_NAME);
    let server_name = server_name.map_or("server", String::as_str);
    Ok(Issued {
        authority: certificate,
        name,
        server: sign(server_name, hosts, ExtendedKeyUsagePurpose::ServerAuth)?,
        client: sign(CLIENT, &[], ExtendedKeyUsagePurpose::ClientAuth)?,
        reachable: hosts.iter().find(|host| !host.starts_with('*')).cloned(),
        until: Moment(i64::try_from(until.as_secs())?),
    })
}

/// Reads a host: a name, perhaps with `*` for its first label, or an IP address.
pub(super) fn host(text: &str) -> Result<String, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    if !text.is_ascii() {
        return Err("write it in ASCII, as DNS knows it: xn--...".to_owned());
    }
    let name = text.to_ascii_lowercase();
    let (wildcard, rest) = match name.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, name.as_str()),
    };
    if wildcard && !rest.contains('.') {
        return Err("clients take a wildcard only above a domain, as in *.example.org".to_owned());
    }
    let is_label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    // What ends in a number is an address or a mistake, and no name.
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    if name.len() <= LONGEST_HOST
        && rest.split('.').all(is_label)
        && !rest.rsplit('.').next().is_some_and(is_number)
    {
        return Ok(name);
    }
    Err("expected a host name or an IP address and nothing else, such as localhost, mqtt.example.org or 192.0.2.7"
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Certificate;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use x509_parser::prelude::{FromDer, X509Certificate};

    fn hosts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| host(text).unwrap()).collect()
    }

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    #[test]
    fn a_host_is_a_name_or_an_address() {
        for (text, read) in [
            ("localhost", "localhost"),
            ("MQTT.Example.org", "mqtt.example.org"),
            ("*.example.org", "*.example.org"),
            ("my_broker-1", "my_broker-1"),
            ("192.0.2.7", "192.0.2.7"),
            ("2001:DB8::0007", "2001:db8::7"),
        ] {
            assert_eq!(host(text), Ok(read.to_owned()));
        }
        let long = "x".repeat(64);
        for text in [
            "",
            ".",
            "a..b",
            "localhost:8883",
            "mqtts://localhost",
            "[::1]",
            "*",
            "*.org",
            "a.*.org",
            "-a",
            "a-",
            "192.0.2",
            "256.1.1.1",
            "a b",
            "münchen.example",
            "localhost.",
            &long,
        ] {
            assert!(host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_server_s_certificate_is_for_the_hosts_and_nothing_else() {
        let issued = issue(&hosts(&["localhost", "*.example.org", "127.0.0.1", "::1"])).unwrap();
        let certificate = Certificate::read(&der(&issued.server.certificate)).unwrap();
        for (server, is_for) in [
            ("localhost", true),
            ("a.example.org", true),
            ("127.0.0.1", true),
            ("::1", true),
            ("example.org", false),
        ] {
            assert_eq!(certificate.is_for(server), is_for, "{server}");
        }
        assert_eq!(certificate.not_after, issued.until);
        let client = Certificate::read(&der(&issued.client.certificate)).unwrap();
        assert_eq!(client.subject(), "CN=client");
    }

    #[test]
    fn each_may_do_what_it_is_for() {
        let issued = issue(&hosts(&["*.example.org", "localhost"])).unwrap();
        assert_eq!(issued.reachable.as_deref(), Some("localhost"));
        let (authority, server, client) =
            (der(&issued.authority), der(&issued.server.certificate), der(&issued.client.certificate));
        let read = |der: &'static CertificateDer<'static>| X509Certificate::from_der(der).unwrap().1;
        let [authority, server, client] =
            [authority, server, client].map(|der| read(Box::leak(Box::new(der))));
        let constraints = authority.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(0));
        assert!(authority.key_usage().unwrap().unwrap().value.key_cert_sign());
        for (certificate, is_server) in [(server, true), (client, false)] {
            assert!(!certificate.basic_constraints().unwrap().unwrap().value.ca);
            let usage = certificate.key_usage().unwrap().unwrap().value;
            assert!(usage.digital_signature() && !usage.key_cert_sign());
            let purposes = certificate.extended_key_usage().unwrap().unwrap().value;
            assert_eq!((purposes.server_auth, purposes.client_auth), (is_server, !is_server));
            assert_eq!(certificate.issuer(), authority.subject());
        }
    }

    #[test]
    fn two_authorities_have_two_names() {
        let [one, other] = [(), ()].map(|()| issue(&hosts(&["localhost"])).unwrap());
        assert_ne!(one.name, other.name);
        assert_ne!(one.authority, other.authority);
    }
}
