//! A load's course: warm-up, measurement, drain, and what is told of it.

use std::time::Duration;

use super::super::client::ClientError;
use super::arguments::Context;
use super::histogram::duration;
use super::load::Load;
use super::meter::{Mark, Meter};
use super::progress::Progress;
use super::report::{Report, grouped, rounded};

/// Without progress for so long, what is missing is given up; nanoseconds.
const GIVE_UP: u64 = 500_000_000;

/// Without any progress for so long, so is the run.
const PATIENCE: u64 = 10_000_000_000;

/// The longest wait for the last deliveries.
const DRAIN: u64 = 2_000_000_000;

/// A pause after reads that brought little, while much is under way.
const PAUSE: Duration = Duration::from_micros(200);

/// So many messages under way are much.
const DEEP: u64 = 500;

const TURN: Duration = Duration::from_millis(10);

/// How long the parts take, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub warm_up: u64,
    pub duration: u64,
    /// A number of messages ends it, and it is measured to the last delivery.
    pub is_counted: bool,
    /// Messages that all publishers together may have under way.
    pub under_way: u64,
}

#[derive(Debug, Clone, Copy)]
struct Point {
    mark: Mark,
    sent: u64,
    acknowledged: u64,
    delivered: u64,
}

#[derive(PartialEq)]
enum Phase {
    WarmUp,
    Measure,
    Drain,
}

/// Runs the load and adds to the report.
pub(super) fn run(context: &mut Context, load: &mut Load, plan: Plan) -> Result<(), ClientError> {
    let is_paced = load.schedule.is_some();
    let pause = if is_paced || plan.under_way < DEEP { Duration::ZERO } else { PAUSE };
    let begin = context.connections.now();
    let mut progress = Progress::new("messages delivered", begin);
    let mut from = point(context, load);
    let mut to = from;
    let (mut phase, mut stalls) = (Phase::WarmUp, 0_u64);
    let (mut seen, mut seen_at) = ((0, 0, 0), begin);
    loop {
        let now = context.connections.now();
        let steps = (load.delivered, load.released, load.acknowledged);
        if steps != seen {
            (seen, seen_at) = (steps, now);
        }
        let idle = now - seen_at;
        match phase {
            Phase::WarmUp if now >= begin + plan.warm_up => {
                from = point(context, load);
                load.measure_from = from.mark.at;
                load.times.clear();
                phase = Phase::Measure;
            }
            Phase::Measure if load.is_sent() || now >= from.mark.at + plan.duration => {
                to = point(context, load);
                load.count_unsent(now);
                phase = Phase::Drain;
                seen_at = now;
            }
            Phase::Drain if load.is_delivered() && load.is_acknowledged() || idle > DRAIN => break,
            Phase::WarmUp | Phase::Measure if !is_paced && idle > GIVE_UP => {
                if load.give_up() > 0 {
                    stalls += 1;
                    seen_at = now;
                } else if idle > PATIENCE {
                    return Err(ClientError::Stuck(
                        "the broker neither delivers nor acknowledges".to_owned(),
                    ));
                }
            }
            Phase::WarmUp | Phase::Measure | Phase::Drain => {}
        }
        let mut wait = TURN;
        if phase != Phase::Drain {
            load.send_all(&mut context.connections);
            if let Some(schedule) = &load.schedule {
                let until = schedule.next().saturating_sub(context.connections.now());
                wait = wait.min(Duration::from_nanos(until));
            }
        }
        context.connections.flush();
        context.connections.poll(load, wait)?;
        context.meter.look(now);
        progress.tick(now, load.delivered, if phase == Phase::WarmUp { "warm-up" } else { "" });
        context.connections.rest(pause);
    }
    if plan.is_counted {
        to = Point {
            mark: Mark { at: seen_at, ..context.meter.mark(&context.connections) },
            ..point(context, load)
        };
    }
    drop(progress);
    // The last acknowledgements leave, so that nobody is told of a connection that broke.
    context.connections.flush();
    tell(&mut context.report, load, &from, &to, &context.meter);
    if load.delivered == 0 {
        return Err(ClientError::Stuck(format!(
            "nothing of {} sent messages was delivered ({} acknowledged, {} of them rejected)",
            load.sent, load.acknowledged, load.rejected
        )));
    }
    context.report.set("stalls", stalls);
    if stalls > 0 {
        let text = format!("{stalls} times nothing moved for {}", duration(GIVE_UP));
        context.report.say("stalls", text);
    }
    Ok(())
}

fn point(context: &mut Context, load: &Load) -> Point {
    Point {
        mark: context.meter.mark(&context.connections),
        sent: load.sent,
        acknowledged: load.acknowledged,
        delivered: load.delivered,
    }
}

fn tell(report: &mut Report, load: &mut Load, from: &Point, to: &Point, meter: &Meter) {
    let seconds = to.mark.at.saturating_sub(from.mark.at) as f64 / 1e9;
    report.operations("delivered message", to.delivered - from.delivered, &from.mark, &to.mark, meter);
    report.set("published_per_s", rounded((to.sent - from.sent) as f64 / seconds));
    report.set("acknowledged_per_s", rounded((to.acknowledged - from.acknowledged) as f64 / seconds));
    report.say("published", format!("{} messages/s", grouped((to.sent - from.sent) as f64 / seconds)));
    report.times("latency_us", "latency", &mut load.times);
    if load.acknowledgements.count() > 0 {
        report.times("acknowledgement_us", "to be acknowledged", &mut load.acknowledgements);
    }
    if load.schedule.is_some() {
        report.times("schedule_lag_us", "of it, before it was sent", &mut load.lags);
        report.set("unsent", load.unsent());
    }
    let lost = load.missing();
    report.set("sent", load.sent);
    report.set("acknowledged", load.acknowledged);
    report.set("delivered", load.delivered);
    report.set("lost", lost);
    report.set("given_up", load.given_up);
    report.set("rejected", load.rejected);
    report.set("out_of_order", load.out_of_order);
    report.set("foreign", load.foreign);
    report.say(
        "messages",
        format!(
            "{} sent, {} delivered, {lost} lost, {} rejected, {} out of order",
            grouped(load.sent as f64),
            grouped(load.delivered as f64),
            load.rejected,
            load.out_of_order
        ),
    );
}
