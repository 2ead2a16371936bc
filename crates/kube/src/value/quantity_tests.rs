use proptest::prelude::*;

use super::*;

fn shown(text: &str) -> String {
    text.parse::<Quantity>().unwrap().to_string()
}

#[test]
fn canonical_forms_are_those_of_kubernetes() {
    // Those of the documentation of Quantity, and of its own tests.
    for (from, to) in [
        ("1.5", "1500m"),
        ("1.5Gi", "1536Mi"),
        ("0", "0"),
        ("0Ki", "0"),
        ("0.1", "100m"),
        ("100m", "100m"),
        ("1000m", "1"),
        ("1024", "1024"),
        ("1Ki", "1Ki"),
        ("1024Ki", "1Mi"),
        ("1000k", "1M"),
        ("12e6", "12e6"),
        ("1e3", "1e3"),
        ("1E", "1E"),
        ("1E3", "1e3"),
        ("1.1n", "2n"),
        ("0.1n", "1n"),
        ("-1.5", "-1500m"),
        ("+5", "5"),
        (".5", "500m"),
        ("5.", "5"),
        ("1023", "1023"),
        ("0.5Ki", "512"),
        ("0.0001Ki", "102400u"),
        ("00012", "12"),
        ("3Ei", "3Ei"),
        ("5e-3", "5e-3"),
    ] {
        assert_eq!(shown(from), to, "{from}");
    }
}

#[test]
fn what_is_too_large_is_the_largest_and_what_is_too_small_the_smallest() {
    for large in
        ["9223372036854775807", "10E", "1e500000000000", "99999999999999999999999999999999999999999999"]
    {
        assert_eq!(large.parse::<Quantity>().unwrap().value(), i64::MAX, "{large}");
    }
    assert_eq!("100Ei".parse::<Quantity>().unwrap().value(), i64::MAX);
    assert_eq!("-100Ei".parse::<Quantity>().unwrap().value(), -i64::MAX);
    for small in ["1e-500000000000", "0.0000000000000000000000000000000000000000000001", "1e-10"] {
        assert_eq!(small.parse::<Quantity>().unwrap().milli_value(), 1, "{small}");
    }
}

#[test]
fn what_is_no_quantity_is_none() {
    for text in [
        "", "-", "+", ".", "1.2.3", "1 Gi", "1gi", "1GiB", "Gi", "1e", "1e1.5", "0x10", "1,5", "½", "1K",
        "1mm", "1e+", "--1", "1-",
    ] {
        assert_eq!(text.parse::<Quantity>(), Err(NoQuantity), "{text}");
    }
}

#[test]
fn values_are_rounded_up() {
    let quantity: Quantity = "1.0001".parse().unwrap();
    assert_eq!((quantity.value(), quantity.milli_value()), (2, 1001));
    assert!(quantity.is_fraction());
    assert_eq!("1500u".parse::<Quantity>().unwrap().rounded_to_milli().to_string(), "2m");
    assert_eq!("-1.5".parse::<Quantity>().unwrap().value(), -1);
    let sum = "1Gi".parse::<Quantity>().unwrap().plus(Quantity::whole(1));
    assert_eq!(sum.value(), (1 << 30) + 1);
    assert!("1G".parse::<Quantity>().unwrap() < "1Gi".parse().unwrap());
    assert_eq!("1000m".parse::<Quantity>().unwrap(), Quantity::whole(1));
}

proptest! {
    #[test]
    fn any_text_is_a_quantity_or_none(text in "[-+]?[0-9.]{0,40}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,30}") {
        if let Ok(quantity) = text.parse::<Quantity>() {
            let again: Quantity = quantity.to_string().parse().unwrap();
            prop_assert_eq!(again, quantity);
            prop_assert_eq!(again.to_string(), quantity.to_string());
        }
    }

    #[test]
    fn whole_numbers_stay_what_they_are(number in any::<i64>().prop_filter("cut", |n| *n != i64::MIN)) {
        prop_assert_eq!(number.to_string().parse::<Quantity>().unwrap().value(), number);
    }

    #[test]
    fn units_of_two_are_exact(number in 0i64..(1 << 20), unit in 0usize..4) {
        let (name, power) = BINARY[unit];
        let quantity: Quantity = format!("{number}{name}").parse().unwrap();
        prop_assert_eq!(quantity.value(), number << power);
    }
}
