//! Sends the same request several times with reqwest and prints each answer: stock-client URL BODY COUNT.

use std::env;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let client = reqwest::blocking::Client::new();
    for _ in 0..arguments[2].parse()? {
        let answer = client
            .post(&arguments[0])
            .header("Content-Type", "application/json")
            .body(arguments[1].clone())
            .send()?;
        println!("{} {}", answer.status().as_u16(), answer.text()?);
    }
    Ok(())
}
