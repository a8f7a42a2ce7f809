//! Days by the Gregorian calendar. A library of core WebAssembly: no memory, no imports, no standard
//! library. A day's number counts from 1970-01-01, which is 0.
#![no_std]

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    core::arch::wasm32::unreachable()
}

/// The number of a day. Months before March belong to the year before, so that a leap day is the
/// last day of its year.
#[no_mangle]
pub extern "C" fn day_number(year: i32, month: i32, day: i32) -> i32 {
    let shifted = year.wrapping_sub((month <= 2) as i32);
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let of_days = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    era.wrapping_mul(146_097).wrapping_add(of_days).wrapping_sub(719_468)
}

/// 1 for Monday to 7 for Sunday (ISO 8601).
#[no_mangle]
pub extern "C" fn weekday(year: i32, month: i32, day: i32) -> i32 {
    day_number(year, month, day).wrapping_add(3).rem_euclid(7) + 1
}

/// Easter Sunday of a year, as month * 100 + day: 421 is 21 April (the Meeus/Jones/Butcher method).
#[no_mangle]
pub extern "C" fn easter(year: i32) -> i32 {
    let (golden, century, rest) = (year % 19, year / 100, year % 100);
    let moon = (19 * golden + century - century / 4 - (century - (century + 8) / 25 + 1) / 3 + 15) % 30;
    let days = (32 + 2 * (century % 4) + 2 * (rest / 4) - moon - rest % 4) % 7;
    let late = (golden + 11 * moon + 22 * days) / 451;
    let sum = moon + days - 7 * late + 114;
    sum / 31 * 100 + sum % 31 + 1
}
