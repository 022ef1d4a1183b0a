//! Where in a TOML text a key is written. Only for error messages: the values come from a real parser, which
//! does not hand its positions on, and a text that this light scan does not understand costs a line number.

/// The line, from 1, on which a dotted key is written; of its nearest table if the key itself is not found.
/// An element of an array of tables has its index in the key: `listeners[1].address`.
pub(super) fn line_of(text: &str, key: &str) -> Option<usize> {
    let mut path = key;
    loop {
        if let Some(line) = find(text, path) {
            return Some(line);
        }
        path = path.rsplit_once('.').or_else(|| path.rsplit_once('['))?.0;
    }
}

fn find(text: &str, key: &str) -> Option<usize> {
    let mut table = String::new();
    let mut arrays: Vec<(String, usize)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix("[[").and_then(|rest| rest.split_once("]]")) {
            let name = plain(header.0);
            let number = match arrays.iter_mut().find(|(array, _)| *array == name) {
                Some((_, last)) => {
                    *last += 1;
                    *last
                }
                None => {
                    arrays.push((name.clone(), 0));
                    0
                }
            };
            if name == key {
                return Some(index + 1);
            }
            table = format!("{name}[{number}]");
        } else if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            table = plain(header.0);
        } else if let Some((name, _)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            let name = plain(name);
            if (table.is_empty() && name == key)
                || key.strip_prefix(table.as_str()).and_then(|rest| rest.strip_prefix('.')) == Some(&name)
            {
                return Some(index + 1);
            }
            continue;
        } else {
            continue;
        }
        if table == key {
            return Some(index + 1);
        }
    }
    None
}

/// A key without its spaces and quotes.
fn plain(key: &str) -> String {
    key.split('.').map(|part| part.trim().trim_matches(['"', '\''])).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# log.level = "no"
log.format = "json"
queue = { messages = 3 }

[[listeners]]
address = "127.0.0.1:1883"
[[listeners]]
address = "127.0.0.1:1884"
[limits] # bounds
  max_packet_size = 1
"outbox_soft"= 2
"#;

    #[test]
    fn keys_are_found_where_they_are_written() {
        for (key, line) in [
            ("log.format", Some(2)),
            ("queue.messages", Some(3)),
            ("listeners", Some(5)),
            ("listeners[0]", Some(5)),
            ("listeners[0].address", Some(6)),
            ("listeners[1]", Some(7)),
            ("listeners[1].address", Some(8)),
            ("listeners[1].kind", Some(7)),
            ("limits", Some(9)),
            ("limits.max_packet_size", Some(10)),
            ("limits.outbox_soft", Some(11)),
            ("log.level", None),
            ("retained.enabled", None),
            ("queue[0]", Some(3)),
        ] {
            assert_eq!(line_of(TEXT, key), line, "{key}");
        }
    }
}
