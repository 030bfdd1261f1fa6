//! Figures as people read them.

/// Two digits that matter below ten, and none behind the point above.
#[must_use]
pub fn number(value: f64) -> String {
    if value < 9.95 && (value * 10.0).round() % 10.0 != 0.0 {
        return format!("{value:.1}");
    }
    #[allow(clippy::cast_sign_loss, reason = "a count")]
    grouped(value.round() as u64)
}

/// With a comma before each three digits.
#[must_use]
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
