//! Shared by the benches: measures CPU time instead of wall time.
//!
//! On a virtual machine with neighbours, or next to a build, wall time grows by whatever they use. The CPU time of the
//! measuring thread is only affected by caches and the clock rate. If the kernel does not account for interrupts
//! separately (`CONFIG_IRQ_TIME_ACCOUNTING` unset), it includes the loopback device's work, which runs in the context
//! of the sender.

use std::time::Duration;

use criterion::Criterion;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use rustix::time::{ClockId, clock_gettime};

/// CPU time of the calling thread, user and system, in nanoseconds (`CLOCK_THREAD_CPUTIME_ID`).
pub struct CpuTime;

impl CpuTime {
    /// CPU time that the calling thread has used so far.
    pub fn now() -> Duration {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        let seconds = u64::try_from(now.tv_sec).expect("the clock begins at zero");
        let nanoseconds = u32::try_from(now.tv_nsec).expect("the clock is normalised");
        Duration::new(seconds, nanoseconds)
    }
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        CpuTime::now()
    }

    fn end(&self, began: Duration) -> Duration {
        CpuTime::now() - began
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    #[allow(clippy::cast_precision_loss, reason = "2^53 ns are 104 days")]
    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// Criterion with CPU time. These settings can be overridden on the command line.
pub fn on_cpu_time() -> Criterion<CpuTime> {
    Criterion::default()
        .with_measurement(CpuTime)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
}
