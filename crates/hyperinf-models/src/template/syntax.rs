//! The syntax tree of a template, owned and of limited depth.

use std::sync::Arc;

pub(super) type Name = Arc<str>;

#[derive(Debug)]
pub(super) enum Literal {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Name),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
    Concat,
    And,
    Or,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

#[derive(Debug)]
pub(super) enum Expr {
    Literal(Literal),
    Name(Name),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Attribute(Box<Expr>, Name),
    Item(Box<Expr>, Box<Expr>),
    Slice(Box<Expr>, Box<[Option<Expr>; 3]>),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Binary(Binary, Box<(Expr, Expr)>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    /// `then if test else otherwise`.
    Conditional(Box<(Expr, Expr)>, Option<Box<Expr>>),
    /// Without an input the filter's input is the text of its block.
    Filter(Name, Option<Box<Expr>>, Vec<Argument>),
    Test(Name, Box<Expr>, Vec<Argument>),
    Call(Box<Expr>, Vec<Argument>),
}

#[derive(Debug)]
pub(super) enum Argument {
    Positional(Expr),
    Named(Name, Expr),
    Splat(Expr),
    NamedSplat(Expr),
}

#[derive(Debug)]
pub(super) enum Target {
    Name(Name),
    /// An attribute of a namespace.
    Attribute(Name, Name),
    Several(Vec<Target>),
}

#[derive(Debug)]
pub(super) struct Statement {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Text(Name),
    Print(Expr),
    For(Arc<For>),
    If {
        test: Expr,
        then: Vec<Statement>,
        otherwise: Vec<Statement>,
        /// Whether it is an `elif` of the one around.
        elif: bool,
    },
    With(Vec<(Target, Expr)>, Vec<Statement>),
    Set(Target, Expr),
    SetBlock(Target, Option<Expr>, Vec<Statement>),
    Filter(Expr, Vec<Statement>),
    Macro(Arc<Macro>),
    /// The call, with its function and arguments, and the body as a macro `caller`.
    Call(Expr, Vec<Argument>, Arc<Macro>),
    Generation(Vec<Statement>),
    /// Names that are undefined until they are set, whatever is given.
    Hide(Vec<Name>),
    Break,
    Continue,
}

#[derive(Debug)]
pub(super) struct For {
    pub(super) target: Target,
    pub(super) iterable: Expr,
    pub(super) condition: Option<Expr>,
    pub(super) recursive: bool,
    pub(super) body: Vec<Statement>,
    pub(super) otherwise: Vec<Statement>,
}

#[derive(Debug)]
pub(super) struct Macro {
    pub(super) name: Name,
    pub(super) parameters: Vec<Name>,
    /// The defaults of the last parameters.
    pub(super) defaults: Vec<Expr>,
    pub(super) body: Vec<Statement>,
    /// Which of `varargs`, `kwargs` and `caller` the body reads.
    pub(super) special: [bool; 3],
}

pub(super) const SPECIAL: [&str; 3] = ["varargs", "kwargs", "caller"];
