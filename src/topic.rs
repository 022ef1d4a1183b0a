//! Topic Names and Topic Filters, §4.7: if you hold one, it is valid.
//!
//! `codec` hands over unchecked text, `broker` parses it here once, `routing` walks the levels. There is no
//! limit to the number of levels but the length of the text (§4.7.3), so nothing may recurse over them.

use thiserror::Error;

/// Why a text is no Topic Name or no Topic Filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TopicError {
    /// [MQTT-4.7.3-1]
    #[error("it is empty")]
    Empty,
    /// [MQTT-4.7.3-3]
    #[error("it is longer than 65,535 bytes")]
    TooLong,
    /// [MQTT-1.5.4-1]
    #[error("it is not UTF-8")]
    NotUtf8,
    /// [MQTT-4.7.3-2], [MQTT-1.5.4-2]
    #[error("it contains the null character")]
    Null,
    /// [MQTT-3.3.2-2]
    #[error("a topic name must not contain '+' or '#'")]
    WildcardInName,
    /// [MQTT-4.7.1-1]
    #[error("'#' must be the last level and stand alone in it")]
    MisplacedMultiLevel,
    /// [MQTT-4.7.1-2]
    #[error("'+' must stand alone in its level")]
    MisplacedSingleLevel,
    /// [MQTT-4.8.2-1], [MQTT-4.8.2-2]
    #[error("'$share/' must be followed by a group name without '+' and '#', a '/' and a topic filter")]
    MalformedShare,
}

/// A valid Topic Name: UTF-8, 1 to 65,535 bytes, no wildcard, no U+0000.
#[derive(Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct TopicName(str);

impl TopicName {
    /// Checks the bytes of a PUBLISH's topic.
    pub fn parse(bytes: &[u8]) -> Result<&Self, TopicError> {
        // In one go over all bytes, which takes a processor less than stopping at the first.
        let has_special = bytes.iter().fold(false, |has, byte| has | matches!(byte, 0 | b'+' | b'#'));
        let text = check_text(bytes, has_special)?;
        if has_special {
            return Err(TopicError::WildcardInName);
        }
        Ok(Self::assume_checked(text))
    }

    /// For text that was parsed before, such as the topic of a stored message.
    #[expect(
        unsafe_code,
        reason = "a transparent wrapper of str can be made from a reference in no other way"
    )]
    pub(crate) fn assume_checked(text: &str) -> &Self {
        // SAFETY: `TopicName` is `repr(transparent)` over `str`, so both references have the same layout
        // and validity; the lifetime is that of the argument.
        unsafe { &*(std::ptr::from_ref(text) as *const Self) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether only the broker publishes to it, §4.7.2.
    pub fn is_of_the_broker(&self) -> bool {
        self.0.starts_with("$SYS/")
    }

    /// The levels, one at least; a level may be empty [MQTT-4.7.1-1].
    pub fn levels(&self) -> TopicLevels<'_> {
        TopicLevels { rest: Some(&self.0) }
    }

    /// Whether the first level begins with `$`: hidden from filters that begin with a wildcard [MQTT-4.7.2-1].
    pub fn is_system(&self) -> bool {
        self.0.starts_with('$')
    }
}

/// A valid Topic Filter, without a `$share/{group}/` prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(Box<str>);

impl TopicFilter {
    /// Checks the text of a filter that is not shared.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        check_length(text.len())?;
        let bytes = text.as_bytes();
        let ends_level = |at: usize| bytes.get(at).is_none_or(|byte| *byte == b'/');
        for (at, byte) in bytes.iter().enumerate() {
            let begins_level = at.checked_sub(1).is_none_or(ends_level);
            match byte {
                0 => return Err(TopicError::Null),
                b'#' if !begins_level || at + 1 < bytes.len() => return Err(TopicError::MisplacedMultiLevel),
                b'+' if !begins_level || !ends_level(at + 1) => return Err(TopicError::MisplacedSingleLevel),
                _ => {}
            }
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The levels, one at least; `+` and `#` stand for themselves.
    pub fn levels(&self) -> TopicLevels<'_> {
        TopicLevels { rest: Some(&self.0) }
    }

    /// Whether it has a `+` or `#`.
    pub fn has_wildcard(&self) -> bool {
        self.0.bytes().any(|byte| matches!(byte, b'+' | b'#'))
    }

    /// Whether the filter matches the name, §4.7. A walk of both; `routing` answers it for many at once.
    pub fn matches(&self, name: &TopicName) -> bool {
        if name.is_system() && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut names = name.levels();
        for level in self.levels() {
            if level == "#" {
                return true;
            }
            match names.next() {
                Some(name) if level == "+" || level == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }
}

/// What a SUBSCRIBE asks for: a filter for the session itself, or a share of a group's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `{filter}`
    Own(TopicFilter),
    /// `$share/{group}/{filter}`, §4.8.2
    Shared {
        /// The ShareName.
        group: Box<str>,
        /// The Topic Filter.
        filter: TopicFilter,
    },
}

impl Target {
    /// The Topic Filter.
    pub fn filter(&self) -> &TopicFilter {
        match self {
            Self::Own(filter) | Self::Shared { filter, .. } => filter,
        }
    }

    /// Parses the text of a SUBSCRIBE or UNSUBSCRIBE.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        let Some(rest) = text.strip_prefix("$share/") else {
            return TopicFilter::parse(text).map(Self::Own);
        };
        check_text(text.as_bytes(), true)?;
        let (group, filter) = rest.split_once('/').ok_or(TopicError::MalformedShare)?;
        if group.is_empty() || group.contains(['+', '#']) || filter.is_empty() {
            return Err(TopicError::MalformedShare);
        }
        Ok(Self::Shared { group: group.into(), filter: TopicFilter::parse(filter)? })
    }
}

/// The levels of a name or filter, from the first.
#[derive(Debug, Clone)]
pub struct TopicLevels<'a> {
    rest: Option<&'a str>,
}

impl<'a> Iterator for TopicLevels<'a> {
    type Item = &'a str;

    /// Bytes are looked at, as a split of text decodes what it looks for each time.
    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest.take()?;
        let end = rest.bytes().position(|byte| byte == b'/');
        let Some((level, separator)) = end.map(|end| rest.split_at(end)) else { return Some(rest) };
        self.rest = separator.get(1..);
        Some(level)
    }
}

/// What every topic is held to; a null character is looked for only where there may be one.
fn check_text(bytes: &[u8], may_have_null: bool) -> Result<&str, TopicError> {
    check_length(bytes.len())?;
    if may_have_null && bytes.contains(&0) {
        return Err(TopicError::Null);
    }
    std::str::from_utf8(bytes).map_err(|_| TopicError::NotUtf8)
}

fn check_length(length: usize) -> Result<(), TopicError> {
    match length {
        0 => Err(TopicError::Empty),
        1..=65_535 => Ok(()),
        _ => Err(TopicError::TooLong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_section_4_7_says() {
        for (filter, name, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/#", "sport", true),
            ("#", "a/b/c", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("$SYS/+", "$SYS/x", true),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("a/+/c", "a//c", true),
            ("a/b", "a/b/c", false),
            ("a/b/c", "a/b", false),
        ] {
            let filter = TopicFilter::parse(filter).unwrap();
            let name = TopicName::parse(name.as_bytes()).unwrap();
            assert_eq!(filter.matches(name), expected, "{filter:?} {name:?}");
        }
    }

    #[test]
    fn what_is_no_filter_says_why() {
        for (text, error) in [
            ("", TopicError::Empty),
            ("a\0", TopicError::Null),
            ("sport/tennis#", TopicError::MisplacedMultiLevel),
            ("sport/#/ranking", TopicError::MisplacedMultiLevel),
            ("#/", TopicError::MisplacedMultiLevel),
            ("sport+", TopicError::MisplacedSingleLevel),
            ("$share/", TopicError::MalformedShare),
            ("$share/g", TopicError::MalformedShare),
            ("$share/g/", TopicError::MalformedShare),
            ("$share//a", TopicError::MalformedShare),
            ("$share/g+/a", TopicError::MalformedShare),
            ("$share/#/a", TopicError::MalformedShare),
        ] {
            assert_eq!(Target::parse(text), Err(error), "{text:?}");
        }
        let long = "/".repeat(65_536);
        assert_eq!(Target::parse(&long), Err(TopicError::TooLong));
    }

    #[test]
    fn what_is_no_name_says_why() {
        for (bytes, error) in [
            (&b""[..], TopicError::Empty),
            (b"a/+", TopicError::WildcardInName),
            (b"#", TopicError::WildcardInName),
            (b"a\0b", TopicError::Null),
            (b"\xff", TopicError::NotUtf8),
            (b"\xed\xa0\x80", TopicError::NotUtf8),
        ] {
            assert_eq!(TopicName::parse(bytes), Err(error));
        }
        assert!(TopicName::parse("/ä/ ".as_bytes()).is_ok());
    }
}
