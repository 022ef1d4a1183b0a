//! A load's course: warm-up, measurement, drain, and what is told of it.

use std::time::Duration;

use super::super::client::ClientError;
use super::arguments::Context;
use super::connect::{SETTLE, linger};
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

/// So many deliveries under way are much.
const DEEP: u64 = 300;

const TURN: Duration = Duration::from_millis(10);

/// How long the parts take, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub warm_up: u64,
    pub duration: u64,
    /// A number of messages ends it, and it is measured to the last delivery.
    pub is_counted: bool,
    /// Deliveries that may be under way.
    pub under_way: u64,
}

#[derive(Debug, Clone, Copy)]
struct Point {
    mark: Mark,
    sent: u64,
    acknowledged: u64,
    delivered: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Measure,
    Drain,
}

/// Runs the load and adds to the report. What ends it too early is told there as well, beside what was found until then.
pub(super) fn run(context: &mut Context, load: &mut Load, plan: Plan) -> Result<(), ClientError> {
    if plan.is_counted {
        linger(&mut context.connections, load, SETTLE, 0)?;
    }
    let begin = point(context, load);
    let mut course = Course {
        phase: Phase::WarmUp,
        from: begin,
        to: None,
        moved: (0, 0, 0),
        moved_at: begin.mark.at,
        stalls: 0,
    };
    let ended = course.run(context, load, plan);
    if ended.is_err() {
        course.to = Some(point(context, load));
    } else if plan.is_counted {
        let mut to = point(context, load);
        to.mark.at = course.moved_at;
        linger(&mut context.connections, load, SETTLE, 0)?;
        to.mark = to.mark.with_cost_of(&context.meter.mark(&context.connections));
        course.to = Some(to);
    }
    // The last acknowledgements leave, so that nobody is told of a connection that broke.
    context.connections.flush();
    tell(&mut context.report, load, &course, &context.meter);
    if let Err(error) = ended {
        context.report.fail(error);
    } else if course.to.is_none_or(|to| to.delivered == course.from.delivered) {
        context.report.fail(ClientError::Stuck(format!(
            "nothing was delivered while it was measured ({} sent in all, {} acknowledged, {} of them rejected, {} delivered)",
            load.sent, load.acknowledged, load.rejected, load.delivered
        )));
    }
    Ok(())
}

/// How far a run is.
struct Course {
    phase: Phase,
    /// Between these it is measured.
    from: Point,
    to: Option<Point>,
    /// What had been delivered, released and acknowledged when that last changed.
    moved: (u64, u64, u64),
    moved_at: u64,
    stalls: u64,
}

impl Course {
    fn run(&mut self, context: &mut Context, load: &mut Load, plan: Plan) -> Result<(), ClientError> {
        let is_paced = load.schedule.is_some();
        let pause = if is_paced || plan.under_way < DEEP { Duration::ZERO } else { PAUSE };
        let mut progress = Progress::new("messages delivered", self.moved_at);
        while !self.is_over(context, load, plan)? {
            let mut wait = TURN;
            if self.phase != Phase::Drain {
                load.send_all(&mut context.connections);
                if let Some(next) = load.next_due() {
                    let until = next.saturating_sub(context.connections.now());
                    wait = wait.min(Duration::from_nanos(until));
                }
            }
            context.connections.flush();
            if is_paced && self.phase != Phase::Drain && load.is_pressed(&context.connections) {
                wait = Duration::ZERO;
            }
            context.connections.poll(load, wait)?;
            let now = context.connections.now();
            context.meter.look(now);
            progress.tick(now, load.delivered, if self.phase == Phase::WarmUp { "warm-up" } else { "" });
            context.connections.rest(pause);
        }
        Ok(())
    }

    /// Goes on to the next phase if it is time to; whether the last is over.
    fn is_over(&mut self, context: &mut Context, load: &mut Load, plan: Plan) -> Result<bool, ClientError> {
        let is_paced = load.schedule.is_some();
        let now = context.connections.now();
        let steps = (load.delivered, load.released, load.acknowledged);
        if steps != self.moved {
            (self.moved, self.moved_at) = (steps, now);
        }
        let idle = now - self.moved_at;
        match self.phase {
            Phase::WarmUp if now >= self.from.mark.at + plan.warm_up => {
                self.from = point(context, load);
                load.measure_from = self.from.mark.at;
                self.phase = Phase::Measure;
            }
            Phase::Measure if load.is_sent() || now >= self.from.mark.at + plan.duration => {
                self.to = Some(point(context, load));
                load.count_unsent(now);
                self.phase = Phase::Drain;
                self.moved_at = now;
            }
            Phase::Drain => return Ok(load.is_delivered() && load.unacknowledged() == 0 || idle > DRAIN),
            // A counted run ends by its messages alone.
            Phase::Measure if is_paced && plan.is_counted && idle > PATIENCE && load.unsent() > 0 => {
                return Err(stuck());
            }
            Phase::WarmUp | Phase::Measure if !is_paced && idle > GIVE_UP => {
                if load.give_up() > 0 {
                    self.stalls += 1;
                    self.moved_at = now;
                } else if idle > PATIENCE {
                    return Err(stuck());
                }
            }
            Phase::WarmUp | Phase::Measure => {}
        }
        Ok(false)
    }
}

fn stuck() -> ClientError {
    ClientError::Stuck(format!("the broker neither delivered nor acknowledged for {}", duration(PATIENCE)))
}

fn point(context: &mut Context, load: &Load) -> Point {
    Point {
        mark: context.meter.mark(&context.connections),
        sent: load.sent,
        acknowledged: load.acknowledged,
        delivered: load.delivered,
    }
}

fn tell(report: &mut Report, load: &mut Load, course: &Course, meter: &Meter) {
    let (from, to) = (&course.from, &course.to.unwrap_or(course.from));
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
        if load.unsent() > 0 {
            let unsent = grouped(load.unsent() as f64);
            report.say(
                "unsent",
                format!("{unsent} messages were due and could not be sent: the rate was not met"),
            );
        }
    }
    let lost = load.missing();
    report.set("sent", load.sent);
    report.set("acknowledged", load.acknowledged);
    report.set("delivered", load.delivered);
    report.set("lost", lost);
    report.set("unacknowledged", load.unacknowledged());
    report.set("given_up", load.given_up);
    report.set("rejected", load.rejected);
    report.set("out_of_order", load.out_of_order);
    report.set("duplicates", load.duplicates());
    report.set("foreign", load.foreign);
    report.set("stalls", course.stalls);
    let mut text = format!(
        "{} sent, {} delivered, {lost} lost, {} rejected, {} out of order",
        grouped(load.sent as f64),
        grouped(load.delivered as f64),
        load.rejected,
        load.out_of_order
    );
    if load.unacknowledged() > 0 {
        text.push_str(&format!(", {} not acknowledged", load.unacknowledged()));
    }
    if let Some(duplicates) = load.duplicates() {
        text.push_str(&format!(", {duplicates} twice"));
    }
    report.say("messages", text);
    if course.stalls > 0 {
        let text = format!("{} times nothing moved for {}", course.stalls, duration(GIVE_UP));
        report.say("stalls", text);
    }
}
