//! Contenders at one task, measured by criterion, and their ratios.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};

/// One way to do a task: does it so many times, and says how long that took.
pub type Contender<'a> = (&'a str, Box<dyn FnMut(u64) -> Duration + 'a>);

/// All tasks of a run.
pub struct Suite {
    criterion: Criterion,
    folder: PathBuf,
    started: SystemTime,
    tasks: Vec<Task>,
}

/// A task and the contenders that did it.
struct Task {
    name: String,
    elements: u64,
    contenders: Vec<String>,
}

/// The times of one contender for one iteration, in nanoseconds.
struct Times {
    median: f64,
    least: f64,
}

impl Suite {
    /// Configured by the command line.
    pub fn new() -> Self {
        let folder = folder();
        let criterion = Criterion::default()
            .output_directory(&folder)
            .sample_size(10)
            .warm_up_time(Duration::from_millis(150))
            .measurement_time(Duration::from_millis(600))
            .configure_from_args();
        Self { criterion, folder, started: SystemTime::now(), tasks: Vec::new() }
    }

    /// Lets each contender do a task of `elements` parts. The others are compared with the first.
    pub fn compare(&mut self, name: &str, elements: usize, contenders: Vec<Contender<'_>>) {
        let mut group = self.criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(elements as u64)).sampling_mode(SamplingMode::Flat);
        let mut names = Vec::new();
        for (contender, mut times) in contenders {
            let id = BenchmarkId::from_parameter(contender);
            group.bench_function(id, |bencher| bencher.iter_custom(&mut times));
            names.push(contender.to_owned());
        }
        group.finish();
        self.tasks.push(Task { name: name.to_owned(), elements: elements as u64, contenders: names });
    }

    /// Prints what was measured in this run.
    pub fn finish(self) {
        self.criterion.final_summary();
        let rows: Vec<_> = self.tasks.iter().flat_map(|task| self.rows(task)).collect();
        if !rows.is_empty() {
            println!(
                "\n<!-- begin: times -->\n| task | by | median, a part | least | least, in ratio |\n|---|---|---|---|---|"
            );
            for row in rows {
                println!("{row}");
            }
            println!("<!-- end: times -->");
        }
    }

    /// A task's lines; the ratio is that of the least times, which other load on the machine disturbs least.
    fn rows(&self, task: &Task) -> Vec<String> {
        let times: Vec<_> = task.contenders.iter().filter_map(|name| Some((name, self.times(task, name)?))).collect();
        let first = times.first().map_or(1.0, |(_, times)| times.least);
        #[allow(clippy::cast_precision_loss, reason = "for people to read")]
        let elements = task.elements as f64;
        let row = |(name, times): &(&String, Times)| {
            let (median, least) = (Nanoseconds(times.median / elements), Nanoseconds(times.least / elements));
            format!("| {} | {name} | {median} | {least} | {:.2} |", task.name, times.least / first)
        };
        times.iter().map(row).collect()
    }

    /// What criterion noted, if it did so in this run.
    fn times(&self, task: &Task, contender: &str) -> Option<Times> {
        let folder = self.folder.join(file_name(&task.name)).join(file_name(contender)).join("new");
        let path = folder.join("sample.json");
        if fs::metadata(&path).and_then(|about| about.modified()).ok()? < self.started {
            return None;
        }
        let sample = fs::read_to_string(path).ok()?;
        let (iterations, times) = (numbers(&sample, "iters")?, numbers(&sample, "times")?);
        let mut each: Vec<f64> = times.iter().zip(iterations).map(|(time, count)| time / count).collect();
        each.sort_by(f64::total_cmp);
        Some(Times { median: *each.get(each.len() / 2)?, least: *each.first()? })
    }
}

/// A time, in a unit that suits it.
struct Nanoseconds(f64);

impl std::fmt::Display for Nanoseconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match self.0 {
            time if time < 10.0 => format!("{time:.2} ns"),
            time if time < 10_000.0 => format!("{time:.0} ns"),
            time => format!("{:.1} µs", time / 1000.0),
        };
        f.pad(&text)
    }
}

/// Where criterion keeps its files: beside the build.
fn folder() -> PathBuf {
    let program = std::env::current_exe().expect("a program has a path");
    program.ancestors().nth(3).unwrap_or(&program).join("criterion")
}

/// The name of a group or a function as criterion writes it into the file system.
fn file_name(name: &str) -> String {
    name.replace(['?', '"', '/', '\\', '*', '<', '>', ':', '|', '^'], "_")
}

/// The array `key` of a flat JSON object of numbers.
fn numbers(json: &str, key: &str) -> Option<Vec<f64>> {
    let (_, rest) = json.split_once(&format!("\"{key}\":["))?;
    let (list, _) = rest.split_once(']')?;
    list.split(',').map(|number| number.trim().parse().ok()).collect()
}
