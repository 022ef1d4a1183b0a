//! How two Topic Filters lie to each other: whether one matches all that the other matches, or something of it.
//!
//! Pure text to answer; §4.7. A filter that begins with a wildcard matches no topic that begins with `$`.

use crate::topic::TopicFilter;

/// Whether every topic that `inner` matches is matched by `outer`.
pub(super) fn covers(outer: &TopicFilter, inner: &TopicFilter) -> bool {
    if begins_wild(outer) && inner.as_str().starts_with('$') {
        return false;
    }
    let (mut outer, mut inner) = (outer.levels(), inner.levels());
    loop {
        match (outer.next(), inner.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(own), Some(other)) if own == other => {}
            (_, _) => return false,
        }
    }
}

/// Whether some topic is matched by both.
pub(super) fn intersects(one: &TopicFilter, other: &TopicFilter) -> bool {
    let hidden =
        |wild: &TopicFilter, named: &TopicFilter| begins_wild(wild) && named.as_str().starts_with('$');
    if hidden(one, other) || hidden(other, one) {
        return false;
    }
    let (mut one, mut other) = (one.levels(), other.levels());
    loop {
        match (one.next(), other.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(left), Some(right)) if left == right => {}
            (_, _) => return false,
        }
    }
}

fn begins_wild(filter: &TopicFilter) -> bool {
    filter.as_str().starts_with(['+', '#'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::TopicName;
    use proptest::prelude::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text).unwrap()
    }

    #[test]
    fn some_cover_and_some_only_meet() {
        for (outer, inner, covered, met) in [
            ("#", "a/b", true, true),
            ("#", "#", true, true),
            ("#", "+/#", true, true),
            ("a/#", "a", true, true),
            ("a/#", "a/+/#", true, true),
            ("a/#", "#", false, true),
            ("a/+", "a/b", true, true),
            ("a/+", "a/#", false, true),
            ("+/+", "a", false, false),
            ("a/b", "a/+", false, true),
            ("a/+/c", "a/b/+", false, true),
            ("a", "a/#", false, true),
            ("a", "b", false, false),
            ("#", "$SYS/#", false, false),
            ("+/#", "$SYS/a", false, false),
            ("$SYS/#", "#", false, false),
            ("$SYS/#", "$SYS/a/+", true, true),
        ] {
            assert_eq!(covers(&filter(outer), &filter(inner)), covered, "{outer} covers {inner}");
            assert_eq!(intersects(&filter(outer), &filter(inner)), met, "{outer} meets {inner}");
            assert_eq!(intersects(&filter(inner), &filter(outer)), met, "{inner} meets {outer}");
        }
    }

    proptest! {
        /// What they say about filters agrees with what the filters say about topics.
        #[test]
        fn topics_agree(
            outer in "(\\$s|[ab+])(/[ab+]){0,2}(/#)?|#",
            inner in "(\\$s|[ab+])(/[ab+]){0,2}(/#)?|#",
            topic in "(\\$s|[ab])(/[ab]){0,3}",
        ) {
            let (outer, inner) = (filter(&outer), filter(&inner));
            let topic = TopicName::parse(topic.as_bytes()).unwrap();
            let (by_outer, by_inner) = (outer.matches(topic), inner.matches(topic));
            if covers(&outer, &inner) {
                prop_assert!(!by_inner || by_outer);
                prop_assert!(intersects(&outer, &inner));
            }
            if by_inner && by_outer {
                prop_assert!(intersects(&outer, &inner));
            }
        }
    }
}
