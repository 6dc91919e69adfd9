//! The examples at the end of `--help`, and usages that would be wider than 80 columns in one line. A test runs the
//! program's parser on each example.

pub(super) const PROGRAM: &str = "\
Examples:
  hyperinf demo
      finds wrong labels in real e-mails with every method
  hyperinf finetune --model MODEL --train train.jsonl --out adapter
  hyperinf detect --model MODEL --adapter adapter --train train.jsonl \\
      --validation validation.jsonl --out suspicious --remove 5%
  hyperinf detect --help
      explains every option of a command";

pub(super) const SCORE: &str = "\
Examples:
  hyperinf score --train-gradients train.safetensors \\
      --query-gradients query.safetensors --output scores.parquet
  hyperinf score --train-gradients train.safetensors \\
      --query-gradients query.safetensors --method datainf --query-mode mean";

pub(super) const COMPARE: &str = "\
Examples:
  hyperinf compare --train-gradients train.safetensors \\
      --query-gradients query.safetensors --out methods
  hyperinf compare --train-gradients train.safetensors \\
      --query-gradients query.safetensors --methods hyperinf,datainf,exact";

pub(super) const EVAL: &str = "\
Examples:
  hyperinf eval lds --methods hyperinf,datainf,identity
  hyperinf eval mislabel --noise 0.2
  hyperinf eval adapter lds --model MODEL --adapter adapter \\
      --train train.jsonl --query query.jsonl --out truth";

pub(super) const EVAL_ADAPTER: &str = "\
Examples:
  hyperinf finetune --model MODEL --train train.jsonl --out adapter --record
  hyperinf eval adapter lds --model MODEL --adapter adapter \\
      --train train.jsonl --query query.jsonl --out truth --drop 5%
  hyperinf eval adapter lds --model MODEL --adapter adapter \\
      --train train.jsonl --query query.jsonl --out fresh --question fresh \\
      --bank bank --part 1/2
  hyperinf eval adapter loo --model MODEL --adapter adapter \\
      --train train.jsonl --query query.jsonl --out loo --method unrolled,loss
  hyperinf eval adapter selection --model MODEL --adapter adapter \\
      --train train.jsonl --query query.jsonl --out kept --keep 50% \\
      --question fresh --repeats 3 --method hyperinf,unrolled,loss,random";

pub(super) const EVAL_ADAPTER_LDS: &str = "\
hyperinf eval adapter lds [OPTIONS] --model <MODEL> --adapter <DIR>
         --train <FILE> --query <FILE> --out <DIR>";
pub(super) const EVAL_ADAPTER_BRITTLENESS: &str = "\
hyperinf eval adapter brittleness [OPTIONS] --model <MODEL>
         --adapter <DIR> --train <FILE> --query <FILE> --out <DIR>";
pub(super) const EVAL_ADAPTER_SELECTION: &str = "\
hyperinf eval adapter selection [OPTIONS] --model <MODEL> --adapter <DIR>
         --train <FILE> --query <FILE> --out <DIR>";
pub(super) const EVAL_ADAPTER_LOO: &str = "\
hyperinf eval adapter loo [OPTIONS] --model <MODEL> --adapter <DIR>
         --train <FILE> --query <FILE> --out <DIR>";

pub(super) const SWEEP: &str = "\
Examples:
  hyperinf sweep --train-gradients train.safetensors \\
      --query-gradients query.safetensors --method exact --out dampings
  hyperinf sweep --train-gradients train.safetensors \\
      --query-gradients query.safetensors --damping 0.01,0.1,1,10,100";

pub(super) const CONVERGE: &str = "\
Examples:
  hyperinf converge
  hyperinf converge --dims 128,256 --samples 300 --draws 1 --out curves";

pub(super) const PLAN: &str = "\
Examples:
  hyperinf plan attribute --model MODEL --adapter adapter \\
      --train train.jsonl --query questions.jsonl --out influence
  hyperinf plan detect --model MODEL --adapter adapter --train train.jsonl \\
      --validation validation.jsonl --out suspicious --method ekfac
  hyperinf plan finetune --model MODEL --train train.jsonl --out adapter";

pub(super) const SCHEMA: &str = "\
Examples:
  hyperinf schema
  hyperinf schema detect";

pub(super) const COMPLETIONS: &str = "\
Examples:
  hyperinf completions bash
  hyperinf completions fish";

pub(super) const MAN: &str = "\
Examples:
  hyperinf man
  hyperinf man --out man1";

pub(super) const CHECK: &str = "\
Examples:
  hyperinf check --model MODEL --data train.jsonl
  hyperinf check --model MODEL --adapter adapter --data train.jsonl
  hyperinf check --model MODEL --data chats.jsonl --rows 20 --skip-bad-rows";

pub(super) const INSPECT: &str = "\
Examples:
  hyperinf inspect train.safetensors
  hyperinf inspect train.safetensors --numbers --json";

pub(super) const REPORT: &str = "\
Examples:
  hyperinf report influence
  hyperinf report suspicious --known-bad ids.txt --output page.html
  hyperinf report influence --sweep hyperinf-sweep";

pub(super) const METHODS: &str = "\
Examples:
  hyperinf methods
  hyperinf methods --json";

pub(super) const FINETUNE: &str = "\
Examples:
  hyperinf finetune --model sentence-transformers/all-MiniLM-L6-v2 \\
      --train train.jsonl --validation validation.jsonl --out adapter
  hyperinf finetune --model ./SmolLM2 --train chats.jsonl --epochs 1 \\
      --lora-target all-linear --checkpoint-every 100 --out adapter";

pub(super) const EVALUATE: &str = "\
Examples:
  hyperinf evaluate --model MODEL --adapter adapter --data validation.jsonl
  hyperinf evaluate --model MODEL --data test.csv --output predictions.csv";

pub(super) const INDEX: &str = "\
Examples:
  hyperinf index --model MODEL --adapter adapter --train train.jsonl --out index
  hyperinf index --model MODEL --adapter adapter --train train.jsonl \\
      --project 16 --dtype bf16 --out small
  hyperinf index --model MODEL --adapter adapter --train more.jsonl \\
      --append --out index";
pub(super) const INDEX_USAGE: &str = "\
hyperinf index [OPTIONS] --model <MODEL> --adapter <DIR>
         --train <FILE> --out <DIR>";

pub(super) const QUERY: &str = "\
Examples:
  hyperinf query --index index --query questions.jsonl --top-k 5
  hyperinf query --index index --text river --label water --json
  hyperinf query --index index --prompt Boat? --completion River. \\
      --method identity
  hyperinf query --index index --query -";
pub(super) const QUERY_USAGE: &str = "\
hyperinf query [OPTIONS] --index <DIR>
         <--query <FILE|->|--text <TEXT>|--prompt <TEXT> --completion <TEXT>>";

pub(super) const VERIFY: &str = "\
Examples:
  hyperinf verify index
  hyperinf verify index --repair";

pub(super) const CONVERT: &str = "\
Examples:
  hyperinf convert runs/quickstart train.safetensors
  hyperinf convert index train.npy
  hyperinf convert train.npz small.safetensors --dtype bf16";

pub(super) const GENERATE: &str = "\
Examples:
  hyperinf generate --model MODEL --prompt cat --out cat.png
  hyperinf generate --model MODEL --adapter lora.safetensors --prompt cat \\
      --prompt dog --steps 50 --guidance 7.5 --seed 3 --out pets.png";
pub(super) const GENERATE_USAGE: &str = "hyperinf generate [OPTIONS] --model MODEL --prompt TEXT --out FILE.png";

pub(super) const ATTRIBUTE: &str = "\
Examples:
  hyperinf attribute --model MODEL --adapter adapter --train train.jsonl \\
      --query questions.jsonl --out influence --top-k 5
  hyperinf attribute --model MODEL --adapter adapter --train train.jsonl \\
      --query questions.jsonl --out influence --method hyperinf,datainf
      runs the model once; results in influence/hyperinf, influence/datainf";

pub(super) const DETECT: &str = "\
Examples:
  hyperinf detect --model MODEL --adapter adapter --train train.jsonl \\
      --validation validation.jsonl --out suspicious --remove 5%
  hyperinf detect --model MODEL --adapter adapter --train train.jsonl \\
      --validation validation.jsonl --out suspicious --method hyperinf,exact
      runs the model once; results in suspicious/hyperinf, suspicious/exact";

pub(super) const SELECT: &str = "\
Examples:
  hyperinf select --model MODEL --adapter adapter --train train.jsonl \\
      --validation validation.jsonl --keep 20% --out chosen
  hyperinf select --model MODEL --adapter adapter --train train.parquet \\
      --validation validation.jsonl --keep 1000 --text-column body --out chosen
  hyperinf select --model MODEL --adapter adapter --train train.jsonl \\
      --validation validation.jsonl --keep 50000tokens --diverse --out chosen
      rows that help together, as many as these tokens";

pub(super) const DEMO: &str = "\
Examples:
  hyperinf demo
  hyperinf demo --images
  hyperinf demo --noise 0.1 --seed 1 --out demo";

pub(super) const SCORE_USAGE: &str = "\
hyperinf score [OPTIONS] --train-gradients <FILE>
         --query-gradients <FILE>";

pub(super) const COMPARE_USAGE: &str = "\
hyperinf compare [OPTIONS] --train-gradients <FILE>
         --query-gradients <FILE>";

pub(super) const SWEEP_USAGE: &str = "\
hyperinf sweep [OPTIONS] --train-gradients <FILE>
         --query-gradients <FILE>";

pub(super) const ATTRIBUTE_USAGE: &str = "\
hyperinf attribute [OPTIONS] --model <MODEL> --adapter <DIR>
         --train <FILE> --query <FILE> --out <DIR>";

pub(super) const PLAN_ATTRIBUTE_USAGE: &str = "\
hyperinf plan attribute [OPTIONS] --model <MODEL> --adapter <DIR>
         --train <FILE> --query <FILE> --out <DIR>";

pub(super) const PLAN_DETECT_USAGE: &str = "\
hyperinf plan detect [OPTIONS] --model <MODEL> --adapter <DIR>
         --train <FILE> --validation <FILE> --out <DIR>";

pub(super) const PLAN_SELECT_USAGE: &str = "\
hyperinf plan select [OPTIONS] --model <MODEL> --adapter <DIR>
         --train <FILE> --validation <FILE> --out <DIR> --keep <AMOUNT>";

pub(super) const PLAN_FINETUNE_USAGE: &str = "\
hyperinf plan finetune [OPTIONS] --model <MODEL> --train <FILE>
         --out <DIR>";

pub(super) const PLAN_INDEX_USAGE: &str = "\
hyperinf plan index [OPTIONS] --model <MODEL> --adapter <DIR>
         --train <FILE> --out <DIR>";

pub(super) const DETECT_USAGE: &str = "\
hyperinf detect [OPTIONS] --model <MODEL> --adapter <DIR>
         --train <FILE> --validation <FILE> --out <DIR>";

pub(super) const SELECT_USAGE: &str = "\
hyperinf select [OPTIONS] --model <MODEL> --adapter <DIR>
         --train <FILE> --validation <FILE> --out <DIR> --keep <AMOUNT>";
