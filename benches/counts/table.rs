//! The table of counts, in Markdown.

use stage2_benches::{
    figures::number,
    machine::{Arm, ArmDirty, Ept, Kind},
};

use crate::{FLOOR, OURS, Operation, rows::ROWS};

/// What was counted for each part of an operation.
struct Cell<'a> {
    row: &'a str,
    by: &'a str,
    each: f64,
}

/// Prints the rows of which something was counted.
pub fn print(operations: &[Operation], counts: &[u64]) {
    let cells: Vec<Cell<'_>> =
        operations.iter().zip(counts).map(|(operation, count)| cell(operation, *count)).collect();
    println!("<!-- begin: instructions -->");
    println!("| instructions | floor | best peer | {} | {} | dirty state | must |", Ept::NAME, Arm::NAME);
    println!("|---|---|---|---|---|---|---|");
    for row in &ROWS {
        let here: Vec<_> = cells.iter().filter(|cell| cell.row == row.name).collect();
        if here.is_empty() {
            continue;
        }
        let of = |names: &[&str]| here.iter().find(|cell| names.contains(&cell.by)).map(|cell| cell.each);
        let plain = |each: Option<f64>| each.map_or_else(String::new, number);
        let judged = |each: Option<f64>, limit: Option<f64>| match (each, limit) {
            (Some(each), Some(limit)) if each > limit => format!("**{}**", number(each)),
            (each, _) => plain(each),
        };
        let dirty_limit = row.limit_dirty.or(row.limit);
        let must = match (row.limit, row.limit_dirty) {
            (Some(limit), Some(dirty)) => format!("≤ {} ({})", number(limit), number(dirty)),
            (Some(limit), None) => format!("≤ {}", number(limit)),
            (None, _) => String::new(),
        };
        println!(
            "| {} | {} | {} | {} | {} | {} | {must} |",
            row.name,
            plain(of(&[FLOOR])),
            best_peer(&here),
            judged(of(&[Ept::NAME, OURS]), row.limit),
            judged(of(&[Arm::NAME]), row.limit),
            judged(of(&[ArmDirty::NAME]), dirty_limit),
        );
    }
    println!("<!-- end: instructions -->");
}

fn cell(operation: &Operation, count: u64) -> Cell<'_> {
    #[allow(clippy::cast_precision_loss, reason = "for people to read")]
    let each = count as f64 / operation.parts as f64;
    Cell { row: operation.row, by: operation.by, each }
}

/// The cheapest of the others, with its name.
fn best_peer(cells: &[&Cell<'_>]) -> String {
    let known = [FLOOR, OURS, Ept::NAME, Arm::NAME, ArmDirty::NAME];
    let peers = cells.iter().filter(|cell| !known.contains(&cell.by));
    let best = peers.min_by(|one, other| one.each.total_cmp(&other.each));
    best.map_or_else(String::new, |cell| format!("{} ({})", number(cell.each), cell.by))
}
