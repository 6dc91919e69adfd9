use hyperinf::burn::tensor::{DType, Device, Tensor, TensorData};

fn main() {
    let name = std::env::args().nth(1).unwrap_or("wgpu".into());
    let device: Device = hyperinf::device(&name).unwrap();
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        println!("== {dtype:?}: supported {}", device.supports_dtype(dtype));
        if !device.supports_dtype(dtype) { continue; }
        let x: Vec<f64> = (1..=40).map(|i| f64::from(i) / 16.0).collect();
        let t = || Tensor::<1>::from_data(TensorData::new(x.clone(), [40]), (&device, dtype));
        let ops: Vec<(&str, fn(Tensor<1>) -> Tensor<1>, fn(f64) -> f64)> = vec![
            ("copy", |t| t, |x| x), ("mul", |t| t.clone() * t, |x| x * x), ("div", |t| t.clone() / (t + 1.0), |x| x / (x + 1.0)),
            ("sqrt", |t| t.sqrt(), f64::sqrt), ("exp", |t| t.exp(), f64::exp), ("log", |t| t.log(), f64::ln),
            ("tanh", |t| t.tanh(), f64::tanh), ("sin", |t| t.sin(), f64::sin), ("erf", |t| t.erf(), |_| f64::NAN),
            ("powf", |t| t.powf_scalar(1.5), |x| x.powf(1.5)), ("recip", |t| t.recip(), f64::recip), ("abs", |t| t.neg().abs(), f64::abs),
            ("max", |t| t.clone().max_pair(t.neg()), |x| x), ("clamp", |t| t.clamp(0.5, 1.0), |x| x.clamp(0.5, 1.0)),
            ("floor", |t| t.floor(), f64::floor), ("log1p", |t| t.log1p(), f64::ln_1p), ("cast f32", |t| t.cast(DType::F32), |x| x),
            ("to f64", |t| t.cast(DType::F64), |x| x), ("sum", |t| t.sum(), |_| f64::NAN), ("cumulative matmul", |t| { let m = t.reshape([5, 8]); m.clone().matmul(m.transpose()).flatten::<1>(0, 1) }, |_| f64::NAN),
        ];
        for (what, on, right) in ops {
            let got = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| on(t()).into_data().convert::<f64>().try_into_vec::<f64>().unwrap()));
            match got {
                Ok(v) => { let worst = v.iter().zip(&x).map(|(v, x)| (v - right(*x)).abs()).fold(0.0f64, |a, b| if b.is_nan() || a.is_nan() { f64::NAN } else { a.max(b) });
                    println!("{what:8}: worst {worst:.1e}; {:?} want {:?}", &v[..2.min(v.len())], [right(x[0]), right(x[1])]); }
                Err(_) => println!("{what:8}: panicked"),
            }
        }
    }
}
