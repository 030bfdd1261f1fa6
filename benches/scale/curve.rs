//! A curve, and how steep it is.

/// What was measured for each of several amounts.
pub struct Curve {
    /// What the amounts are of.
    amount: &'static str,
    /// What was measured, in nanoseconds.
    columns: Vec<&'static str>,
    points: Vec<Point>,
}

struct Point {
    label: String,
    amount: f64,
    values: Vec<f64>,
}

impl Curve {
    pub fn new(amount: &'static str, columns: Vec<&'static str>) -> Self {
        Self { amount, columns, points: Vec::new() }
    }

    pub fn add(&mut self, label: String, amount: usize, values: Vec<f64>) {
        #[allow(clippy::cast_precision_loss, reason = "for people to read")]
        self.points.push(Point { label, amount: amount as f64, values });
    }

    /// In Markdown, with the exponent of the power of the amount that each column follows best.
    pub fn print(&self, name: &str) {
        println!("<!-- begin: {name} -->");
        println!("| {} | {} |", self.amount, self.columns.join(" | "));
        println!("|---|{}", "---|".repeat(self.columns.len()));
        for Point { label, values, .. } in &self.points {
            println!("| {label} | {} |", values.iter().map(|value| figure(*value)).collect::<Vec<_>>().join(" | "));
        }
        let slopes: Vec<_> = (0..self.columns.len()).map(|column| format!("{:+.2}", self.slope(column))).collect();
        println!("| slope | {} |", slopes.join(" | "));
        println!("<!-- end: {name} -->");
    }

    /// Least squares through the logarithms: 0 where the amount does not matter, 1 where the cost is proportional.
    #[allow(clippy::cast_precision_loss, reason = "few points")]
    fn slope(&self, column: usize) -> f64 {
        let points: Vec<_> = self.points.iter().map(|point| (point.amount.ln(), point.values[column].ln())).collect();
        let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
        let (x, y) = (mean(|point| point.0), mean(|point| point.1));
        let covariance: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
        covariance / points.iter().map(|point| (point.0 - x).powi(2)).sum::<f64>()
    }
}

/// Nanoseconds, with the digits that matter.
pub fn figure(value: f64) -> String {
    match value {
        value if value < 100.0 => format!("{value:.1} ns"),
        value if value < 10_000.0 => format!("{value:.0} ns"),
        value if value < 10_000_000.0 => format!("{:.1} µs", value / 1e3),
        value => format!("{:.1} ms", value / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_the_exponent() {
        let mut curve = Curve::new("n", vec!["constant", "linear", "square"]);
        for n in [1_u32, 10, 100] {
            let value = f64::from(n);
            curve.add(String::new(), n as usize, vec![7.0, 3.0 * value, value * value]);
        }
        for (column, slope) in [0.0, 1.0, 2.0].into_iter().enumerate() {
            assert!((curve.slope(column) - slope).abs() < 1e-9);
        }
    }
}
