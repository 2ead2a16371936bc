//! The table of results.

use std::time::Duration;

/// Prints results as they come and remembers whether a bar was missed.
#[derive(Debug)]
pub struct Table {
    missed: bool,
}

impl Table {
    /// An empty table; prints its head.
    pub fn new() -> Self {
        println!("| measure | ours | peer | ratio | bar |");
        println!("|---|---|---|---|---|");
        Self { missed: false }
    }

    /// Our samples against a peer's: medians, and at most `bar` times as long.
    pub fn times(&mut self, measure: &str, ours: &[Duration], peer: (&str, &[Duration]), bar: f64) {
        let ratio = median(ours).as_secs_f64() / median(peer.1).as_secs_f64();
        println!(
            "| {measure} | {} | {} {} | {ratio:.2} | ≤ {bar} {} |",
            spread(ours),
            peer.0,
            spread(peer.1),
            self.verdict(ratio <= bar),
        );
    }

    /// Our samples and a peer's, without a bar.
    pub fn beside(&mut self, measure: &str, ours: &[Duration], peer: (&str, &[Duration])) {
        let ratio = median(ours).as_secs_f64() / median(peer.1).as_secs_f64();
        println!("| {measure} | {} | {} {} | {ratio:.2} | |", spread(ours), peer.0, spread(peer.1));
    }

    /// A time of ours, at most `bar`.
    pub fn time(&mut self, measure: &str, ours: Duration, bar: Duration) {
        let verdict = self.verdict(ours <= bar);
        println!("| {measure} | {} ms | | | ≤ {} ms {verdict} |", ours.as_millis(), bar.as_millis());
    }

    /// Our samples, their median at most `bar`.
    pub fn bounded(&mut self, measure: &str, ours: &[Duration], bar: Duration) {
        let verdict = self.verdict(median(ours) <= bar);
        println!("| {measure} | {} | | | ≤ {} ms {verdict} |", spread(ours), bar.as_millis());
    }

    /// Our samples, with nobody to compare them with.
    pub fn alone(&mut self, measure: &str, ours: &[Duration]) {
        println!("| {measure} | {} | | | |", spread(ours));
    }

    /// A size in bytes, at most `bar`.
    pub fn bytes(&mut self, measure: &str, bytes: u64, bar: u64) {
        println!(
            "| {measure} | {:.1} MiB | | | ≤ {:.0} MiB {} |",
            mib(bytes),
            mib(bar),
            self.verdict(bytes <= bar)
        );
    }

    /// Every bar so far was met.
    pub fn all_met(&self) -> bool {
        !self.missed
    }

    fn verdict(&mut self, met: bool) -> &'static str {
        self.missed |= !met;
        if met { "met" } else { "**missed**" }
    }
}

/// Bytes in MiB.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The middle sample; the upper one of two.
pub fn median(samples: &[Duration]) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2]
}

/// Median, and the slowest but 5 %.
fn spread(samples: &[Duration]) -> String {
    let mut sorted = samples.to_vec();
    sorted.sort();
    let p95 = sorted[(sorted.len() * 95).div_ceil(100) - 1];
    format!("{:.0} ms (p95 {:.0})", median(samples).as_secs_f64() * 1e3, p95.as_secs_f64() * 1e3)
}
