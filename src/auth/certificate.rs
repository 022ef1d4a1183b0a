//! The client's certificate says who it is: a user name made of its names by a template.
//!
//! Pure text to text; that the certificate is genuine was TLS's business. A name that the template asks for and the
//! certificate lacks makes it nobody's: then others are asked.

/// The names in a certificate, the first of each kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct CertificateNames<'a> {
    /// The Common Name of its subject.
    pub common_name: Option<&'a str>,
    /// A DNS name among the Subject Alternative Names.
    pub dns: Option<&'a str>,
    /// A mail address among them.
    pub email: Option<&'a str>,
    /// A URI among them.
    pub uri: Option<&'a str>,
}

/// What a template may ask for.
const MARKS: [&str; 4] = ["%cn", "%dns", "%email", "%uri"];

/// The user name that a template makes of a certificate's names; `None` if one of them is missing or empty, or if the
/// template asks for none.
pub fn user_of(template: &str, names: &CertificateNames<'_>) -> Option<String> {
    let values = [names.common_name, names.dns, names.email, names.uri];
    let mut user = String::new();
    let mut rest = template;
    let mut asked = false;
    while let Some(position) = rest.find('%') {
        let (before, behind) = rest.split_at(position);
        user.push_str(before);
        match MARKS.iter().zip(values).find(|(mark, _)| behind.starts_with(**mark)) {
            Some((mark, value)) => {
                // A name with a line break or the like would be another one in logs and files.
                let value = value.filter(|value| !value.is_empty() && !value.contains(char::is_control))?;
                user.push_str(value);
                asked = true;
                rest = behind.get(mark.len()..).unwrap_or_default();
            }
            None => {
                user.push('%');
                rest = behind.get(1..).unwrap_or_default();
            }
        }
    }
    user.push_str(rest);
    asked.then_some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_makes_a_name_or_none() {
        let names = CertificateNames {
            common_name: Some("sensor-1"),
            dns: Some("sensor-1.example.org"),
            email: None,
            uri: Some("spiffe://example.org/sensor/1"),
        };
        for (template, user) in [
            ("%cn", Some("sensor-1")),
            ("%dns", Some("sensor-1.example.org")),
            ("device:%cn@%dns", Some("device:sensor-1@sensor-1.example.org")),
            ("%uri", Some("spiffe://example.org/sensor/1")),
            ("100%-%cn%", Some("100%-sensor-1%")),
            ("%email", None),
            ("%cn-%email", None),
            ("everyone", None),
            ("", None),
        ] {
            assert_eq!(user_of(template, &names).as_deref(), user, "{template}");
        }
        for name in ["", "a\nb", "a\0"] {
            let names = CertificateNames { common_name: Some(name), ..CertificateNames::default() };
            assert_eq!(user_of("%cn", &names), None, "{name:?}");
        }
        // What a name holds is not looked at again.
        let names =
            CertificateNames { common_name: Some("%dns"), dns: Some("x"), ..CertificateNames::default() };
        assert_eq!(user_of("%cn", &names).as_deref(), Some("%dns"));
    }
}
