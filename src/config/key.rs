//! What one key of the configuration is: its name, what it takes, what it means, and the field it fills.
//!
//! A [`Key`] does everything that depends on the key alone: it reads a written value into the struct that is
//! used, shows a struct's value as it would be written, and says what it expects. `table.rs` has the list.

use std::ops::RangeInclusive;
use std::time::Duration;

use ::config::ValueKind;

use super::units::{parse_duration, parse_size, show_duration, show_size};

/// One key that fills one field of a `T`.
pub(super) struct Key<T> {
    /// Dotted: `limits.max_packet_size`; a listener's keys have no section.
    pub(super) name: &'static str,
    /// One or more sentences for whoever writes the file.
    pub(super) doc: &'static str,
    /// What 0 means, for numbers, sizes and durations where it is no amount.
    pub(super) zero: Option<&'static str>,
    /// What it takes, and the way to its field.
    pub(super) shape: Shape<T>,
}

/// What a key takes. The bounds include both ends and leave out a 0 that has a meaning of its own.
pub(super) enum Shape<T> {
    /// A whole number.
    Number { bounds: RangeInclusive<u64>, unit: &'static str, get: fn(&T) -> u64, set: fn(&mut T, u64) },
    /// A number of bytes.
    Size { bounds: RangeInclusive<u64>, get: fn(&T) -> u64, set: fn(&mut T, u64) },
    /// A time span.
    Duration { bounds: RangeInclusive<Duration>, get: fn(&T) -> Duration, set: fn(&mut T, Duration) },
    /// `true` or `false`.
    Boolean { get: fn(&T) -> bool, set: fn(&mut T, bool) },
    /// One of some words; `later` are words that a coming version will know.
    Choice {
        words: fn() -> Vec<&'static str>,
        later: &'static [&'static str],
        get: fn(&T) -> &'static str,
        set: fn(&mut T, &str),
    },
    /// Any of some words.
    Words { words: &'static [&'static str], get: fn(&T) -> Vec<&'static str>, set: fn(&mut T, &[&str]) },
    /// A text in a form of its own; `set` says whether it was in that form.
    Text { expects: &'static str, get: fn(&T) -> String, set: fn(&mut T, &str) -> bool },
    /// A list of such texts; one alone needs no brackets.
    Texts { expects: &'static str, get: fn(&T) -> Vec<String>, set: fn(&mut T, &[&str]) -> bool },
}

/// An enum whose variants have a word each in the configuration.
pub(super) trait Worded: Copy + PartialEq + 'static {
    /// Every variant, in the order of the documentation.
    const WORDS: &'static [(&'static str, Self)];

    /// The words alone.
    fn words() -> Vec<&'static str> {
        Self::WORDS.iter().map(|(word, _)| *word).collect()
    }

    /// The variant of a word.
    fn from_word(text: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(word, _)| *word == text).map(|(_, variant)| *variant)
    }

    /// The word of a variant.
    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, variant)| *variant == self).map_or("", |(word, _)| *word)
    }
}

impl<T> Key<T> {
    /// Sets the field from a value as written, or says what was expected.
    pub(super) fn apply(&self, target: &mut T, value: &ValueKind) -> Result<(), String> {
        match self.try_apply(target, value) {
            Some(()) => Ok(()),
            None => Err(self.expectation(value)),
        }
    }

    /// As [`Key::apply`] from a text, such as a flag or an environment variable, which has no types.
    pub(super) fn apply_text(&self, target: &mut T, text: &str) -> Result<(), String> {
        let value = match &self.shape {
            Shape::Number { .. } => text.parse::<i64>().map(ValueKind::I64).ok(),
            Shape::Boolean { .. } => text.parse::<bool>().map(ValueKind::Boolean).ok(),
            Shape::Words { .. } | Shape::Texts { .. } => Some(ValueKind::from(
                text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect::<Vec<_>>(),
            )),
            Shape::Size { .. } | Shape::Duration { .. } | Shape::Choice { .. } | Shape::Text { .. } => None,
        };
        self.apply(target, &value.unwrap_or_else(|| ValueKind::from(text)))
    }

    /// The field's value as it would be written in a file.
    pub(super) fn show(&self, target: &T) -> String {
        match &self.shape {
            Shape::Number { get, .. } => get(target).to_string(),
            Shape::Size { get, .. } => bare_or_quoted(&show_size(get(target))),
            Shape::Duration { get, .. } => quoted(&show_duration(get(target))),
            Shape::Boolean { get, .. } => get(target).to_string(),
            Shape::Choice { get, .. } => quoted(get(target)),
            Shape::Words { get, .. } => {
                let words: Vec<_> = get(target).into_iter().map(quoted).collect();
                format!("[{}]", words.join(", "))
            }
            Shape::Text { get, .. } => quoted(&get(target)),
            Shape::Texts { get, .. } => {
                let texts: Vec<_> = get(target).iter().map(|text| quoted(text)).collect();
                format!("[{}]", texts.join(", "))
            }
        }
    }

    /// What may be written, for the documentation and for refusals.
    pub(super) fn expects(&self) -> String {
        let expected = match &self.shape {
            Shape::Number { bounds, unit, .. } => {
                let unit = if unit.is_empty() { String::new() } else { format!(" of {unit}") };
                format!("a number{unit} from {} to {}", bounds.start(), bounds.end())
            }
            Shape::Size { bounds, .. } => format!(
                "a size from {} to {}, such as \"64MiB\" or a number of bytes",
                show_size(*bounds.start()),
                show_size(*bounds.end())
            ),
            Shape::Duration { bounds, .. } => format!(
                "a duration from {} to {}, such as \"500ms\", \"10s\", \"5m\", \"12h\" or \"7d\"",
                show_duration(*bounds.start()),
                show_duration(*bounds.end())
            ),
            Shape::Boolean { .. } => "true or false".to_owned(),
            Shape::Choice { words, .. } => one_of(&words()),
            Shape::Words { words, .. } => format!("a list of any of {}", all_of(words)),
            Shape::Text { expects, .. } | Shape::Texts { expects, .. } => (*expects).to_owned(),
        };
        match self.zero {
            Some(meaning) => format!("{expected}; 0 = {meaning}"),
            None => expected,
        }
    }

    fn try_apply(&self, target: &mut T, value: &ValueKind) -> Option<()> {
        match &self.shape {
            Shape::Number { bounds, set, .. } => {
                let number = number(value)?;
                self.within(bounds, &number, number == 0)?;
                set(target, number);
            }
            Shape::Size { bounds, set, .. } => {
                let bytes = number(value).or_else(|| parse_size(text(value)?))?;
                self.within(bounds, &bytes, bytes == 0)?;
                set(target, bytes);
            }
            Shape::Duration { bounds, set, .. } => {
                let duration = match number(value) {
                    Some(0) => Duration::ZERO,
                    // A number without a unit is a guess waiting to go wrong.
                    Some(_) => return None,
                    None => parse_duration(text(value)?)?,
                };
                self.within(bounds, &duration, duration.is_zero())?;
                set(target, duration);
            }
            Shape::Boolean { set, .. } => match value {
                ValueKind::Boolean(boolean) => set(target, *boolean),
                _ => return None,
            },
            Shape::Choice { words, set, .. } => {
                let word = text(value)?;
                words().contains(&word).then(|| set(target, word))?;
            }
            Shape::Words { words, set, .. } => {
                let ValueKind::Array(values) = value else { return None };
                let chosen = values
                    .iter()
                    .map(|value| text(&value.kind).filter(|word| words.contains(word)))
                    .collect::<Option<Vec<_>>>()?;
                set(target, &chosen);
            }
            Shape::Text { set, .. } => set(target, text(value)?).then_some(())?,
            Shape::Texts { set, .. } => {
                let texts = match value {
                    ValueKind::Array(values) => {
                        values.iter().map(|value| text(&value.kind)).collect::<Option<Vec<_>>>()?
                    }
                    _ => vec![text(value)?],
                };
                set(target, &texts).then_some(())?;
            }
        }
        Some(())
    }

    fn within<V: PartialOrd>(&self, bounds: &RangeInclusive<V>, value: &V, is_zero: bool) -> Option<()> {
        (bounds.contains(value) || (is_zero && self.zero.is_some())).then_some(())
    }

    fn expectation(&self, value: &ValueKind) -> String {
        if let (Shape::Choice { later, .. }, Some(word)) = (&self.shape, text(value))
            && later.contains(&word)
        {
            return format!("{word:?} is not in this version; expected {}", self.expects());
        }
        format!("expected {}", self.expects())
    }
}

fn number(value: &ValueKind) -> Option<u64> {
    match value {
        ValueKind::I64(number) => u64::try_from(*number).ok(),
        ValueKind::U64(number) => Some(*number),
        _ => None,
    }
}

fn text(value: &ValueKind) -> Option<&str> {
    match value {
        ValueKind::String(text) => Some(text),
        _ => None,
    }
}

/// As a TOML basic string.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn bare_or_quoted(text: &str) -> String {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.to_owned() } else { quoted(text) }
}

fn one_of(words: &[&str]) -> String {
    match words {
        [only] => format!("\"{only}\""),
        [first @ .., last] => format!("{} or \"{last}\"", all_of(first)),
        [] => String::new(),
    }
}

fn all_of(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}
