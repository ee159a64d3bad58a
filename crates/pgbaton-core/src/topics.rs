//! Which topics stand behind the names: Kafka gives each an id, and one that was deleted and made again has another.

use std::collections::BTreeMap;

use crate::{Code, Gap, Lsn, Position};

/// Ids of topics by name.
pub type Ids = BTreeMap<String, String>;

/// What was written to, and what stands there now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicIds {
    /// As the last record that tells them has them; empty where none does.
    pub recorded: Ids,
    /// As Kafka has those that it was asked for; none where there is no such topic. Empty where it could not be asked.
    pub found: BTreeMap<String, Option<String>>,
}

impl TopicIds {
    /// Those of `wanted` that are not the ones that were written to.
    pub fn recreated(&self, wanted: &[String]) -> Vec<String> {
        let is_other = |topic: &&String| {
            let pair = self.recorded.get(*topic).zip(self.found.get(*topic));
            pair.is_some_and(|(recorded, found)| found.as_ref() != Some(recorded))
        };
        wanted.iter().filter(is_other).cloned().collect()
    }

    /// Those that were written to and are not `wanted` any more.
    pub fn dropped(&self, wanted: &[String]) -> Vec<String> {
        self.recorded.keys().filter(|topic| !wanted.contains(topic)).cloned().collect()
    }

    /// What a session of `wanted` begins with.
    pub fn current(&self, wanted: &[String]) -> Ids {
        let id = |topic: &String| match self.found.get(topic) {
            Some(found) => found.clone(),
            None => self.recorded.get(topic).cloned(),
        };
        wanted.iter().filter_map(|topic| Some((topic.clone(), id(topic)?))).collect()
    }

    /// What is missing with `recreated`: everything that was published to them.
    pub fn gap(&self, recreated: &[String], published: Position) -> Gap {
        let tell = |topic: &String| match self.found.get(topic) {
            Some(Some(id)) => format!("topic {topic} has the id {id} and had {}", self.recorded[topic]),
            _ => format!("topic {topic} does not exist any more"),
        };
        let told: Vec<String> = recreated.iter().map(tell).collect();
        Gap {
            code: Code::TopicRecreated,
            timeline: published.timeline,
            from_lsn: Lsn::INVALID,
            to_lsn: Some(published.lsn),
            text: format!("{}: what was published to it up to {} is gone", told.join("; "), published.lsn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SystemIdentifier, Timeline};

    fn topics(recorded: &[(&str, &str)], found: &[(&str, &str)]) -> TopicIds {
        let text = |text: &str| text.to_owned();
        TopicIds {
            recorded: recorded.iter().map(|(topic, id)| (text(topic), text(id))).collect(),
            found: found.iter().map(|(topic, id)| (text(topic), (!id.is_empty()).then(|| text(id)))).collect(),
        }
    }

    fn wanted(topics: &[&str]) -> Vec<String> {
        topics.iter().map(|topic| (*topic).to_owned()).collect()
    }

    #[test]
    fn a_topic_that_was_made_again_or_is_gone_is_another_one_and_a_new_one_is_not() {
        let known = topics(&[("a", "1"), ("b", "2"), ("c", "3")], &[("a", "1"), ("b", "9"), ("c", ""), ("d", "4")]);
        let all = wanted(&["a", "b", "c", "d"]);
        assert_eq!(known.recreated(&all), ["b", "c"]);
        assert_eq!(known.current(&all), topics(&[("a", "1"), ("b", "9"), ("d", "4")], &[]).recorded);
        // A table that is not published any more may go with its topic.
        assert_eq!(known.recreated(&wanted(&["a"])), Vec::<String>::new());
        assert_eq!(known.dropped(&wanted(&["a", "d"])), ["b", "c"]);
    }

    #[test]
    fn a_topic_that_kafka_was_not_asked_for_stays_what_it_was() {
        let known = topics(&[("a", "1")], &[("b", "2")]);
        assert_eq!(known.recreated(&wanted(&["a", "b"])), Vec::<String>::new());
        assert_eq!(known.current(&wanted(&["a", "b"])), topics(&[("a", "1"), ("b", "2")], &[]).recorded);
    }

    #[test]
    fn the_gap_names_the_topics_and_ends_where_was_published() {
        let known = topics(&[("a", "1"), ("b", "2")], &[("a", ""), ("b", "9")]);
        let published = Position { system_identifier: SystemIdentifier(7), timeline: Timeline(3), lsn: Lsn(100) };
        let Gap { code, timeline, from_lsn, to_lsn, text } =
            known.gap(&known.recreated(&wanted(&["a", "b"])), published);
        assert_eq!((code, timeline, from_lsn, to_lsn), (Code::TopicRecreated, Timeline(3), Lsn(0), Some(Lsn(100))));
        assert!(text.contains("topic a does not exist") && text.contains("topic b has the id 9"), "{text}");
    }
}
