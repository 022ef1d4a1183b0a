//! Somebody new, again and again: subscribes to all retained topics and tells what it got.

use std::collections::HashMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use crate::member::retained_topic;
use crate::report::Kind;
use crate::retained::{Floor, Wrong};
use crate::support::light::{Event, LightClient, Version};
use crate::support::random::Random;
use crate::world::{Phase, Shared};

/// Visits until all is over. `version`: what it speaks, 3.1.1 and 5.0 in turn without.
pub async fn live(shared: Shared, seed: u64, version: Option<Version>) {
    let mut random = Random::new(seed, 0);
    let mut number = 0;
    while shared.phase() < Phase::Over {
        number += 1;
        let next = if number % 2 == 0 { Version::V5 } else { Version::V3_1_1 };
        if visit(&shared, number, version.unwrap_or(next)).await {
            sleep(Duration::from_millis(50 + random.below(300))).await;
        } else {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// One visit; false if the connection broke.
pub async fn visit(shared: &Shared, number: usize, version: Version) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", shared.port)).await else { return false };
    let name = format!("crash-visitor-{number}");
    let mut client = LightClient::new(&name, version, false);
    let mut out = Vec::new();
    client.connect(true, &mut out);
    let (floor, topics) = {
        let world = shared.world.borrow();
        (world.retained.floor(), world.retained.topics())
    };
    client.subscribe("crash/retained/+", 1, &mut out);
    client.ping(&mut out);
    if stream.write_all(&out).await.is_err() {
        return false;
    }
    let mut got = HashMap::new();
    let mut answered = false;
    let deadline = Instant::now() + shared.patience;
    // Retained messages need not come before the PINGRESP; only those that must come are waited for.
    let is_complete = |got: &HashMap<usize, Option<u64>>| {
        let world = shared.world.borrow();
        (0..topics).all(|topic| got.contains_key(&topic) || world.retained.judge(&floor, topic, None).is_ok())
    };
    while !(answered && is_complete(&got)) {
        let mut buffer = [0; 16_384];
        let length = match timeout_at(deadline, stream.read(&mut buffer)).await {
            Err(_) => break,
            Ok(Ok(length)) if length > 0 => length,
            Ok(_) => return false,
        };
        let mut answers = Vec::new();
        let events = match client.handle(&buffer[..length], &mut answers) {
            Ok(events) => events,
            Err(fault) => {
                shared.fault(Kind::Protocol, fault);
                return true;
            }
        };
        for event in events {
            match event {
                Event::Message { topic, payload, retain: true, .. } => {
                    let topic = (0..topics).find(|index| retained_topic(*index) == topic);
                    let value = std::str::from_utf8(&payload).ok().and_then(|text| text.parse().ok());
                    let (Some(topic), Some(value)) = (topic, value) else {
                        shared.fault(Kind::Corrupt, format!("{name} got a retained {payload:02x?}"));
                        continue;
                    };
                    if got.insert(topic, Some(value)).is_some() {
                        shared.fault(Kind::Corrupt, format!("{name} got {} twice", retained_topic(topic)));
                    }
                }
                Event::Pong => answered = true,
                _ => {}
            }
        }
        if stream.write_all(&answers).await.is_err() {
            return false;
        }
    }
    if !answered {
        shared.fault(Kind::Protocol, format!("{name}: no PINGRESP within {:?}", shared.patience));
        return true;
    }
    judge(shared, &name, &floor, &got);
    let mut out = Vec::new();
    client.disconnect(&mut out);
    let _ = stream.write_all(&out).await;
    true
}

/// Looks at every topic.
fn judge(shared: &Shared, name: &str, floor: &Floor, got: &HashMap<usize, Option<u64>>) {
    let mut world = shared.world.borrow_mut();
    let topics = world.retained.topics();
    world.counts.retained_fetched += topics as u64;
    for topic in 0..topics {
        let value = got.get(&topic).copied().flatten();
        if let Err(wrong) = world.retained.judge(floor, topic, value) {
            let kind = match wrong {
                Wrong::Older => Kind::RetainedOlder,
                Wrong::Gone => Kind::RetainedGone,
                Wrong::Raised => Kind::RetainedRaised,
                Wrong::Invented => Kind::Corrupt,
            };
            let owed = world.retained.describe(floor, topic);
            world.fault(kind, format!("{name} got {value:?} for {}; {owed}", retained_topic(topic)));
        }
    }
}
