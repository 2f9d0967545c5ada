//! The binary.
fn main() {
    for crd in virtual_account_operator::api::crds() {
        println!("{}", serde_saphyr::to_string(&crd).unwrap_or_default());
    }
}
