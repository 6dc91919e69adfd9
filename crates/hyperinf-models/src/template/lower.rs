//! From minijinja's syntax tree to ours. Its parser reads templates as Jinja does; its interpreter computes with other
//! types than Python and bounds neither texts nor time.

use std::sync::Arc;

use minijinja::machinery::{Span, ast};
use minijinja::value::ValueKind;

use super::checks::TESTS;
use super::error::TemplateError;
use super::filters::FILTERS;
use super::marks::GENERATION;
use super::syntax::{Argument, Binary, Comparison, Expr, For, Kind, Literal, Macro, SPECIAL, Statement, Target};

/// The most expressions and statements inside of each other.
const DEPTH: usize = 600;

type Lowered<T> = Result<T, TemplateError>;

/// Turns a syntax tree into ours.
pub(super) struct Lowering<'s> {
    source: &'s str,
    depth: usize,
    /// Every name that is read.
    read: Vec<String>,
}

fn syntax<T>(span: Span, reason: impl Into<String>) -> Lowered<T> {
    Err(TemplateError::Syntax { line: span.start_line as usize, reason: reason.into() })
}

impl<'s> Lowering<'s> {
    pub(super) fn new(source: &'s str) -> Self {
        Self { source, depth: 0, read: Vec::new() }
    }

    fn deeper<T>(&mut self, span: Span, lower: impl FnOnce(&mut Self) -> Lowered<T>) -> Lowered<T> {
        self.depth += 1;
        if self.depth > DEPTH {
            let (line, limit) = (span.start_line as usize, DEPTH as u64);
            return Err(TemplateError::Limit { line, limit, what: "expressions and blocks inside of each other" });
        }
        let lowered = lower(self);
        self.depth -= 1;
        lowered
    }

    pub(super) fn template(&mut self, template: &ast::Stmt<'_>) -> Lowered<Vec<Statement>> {
        match template {
            ast::Stmt::Template(template) => self.statements(&template.children),
            _ => Ok(Vec::new()),
        }
    }

    fn statements(&mut self, statements: &[ast::Stmt<'_>]) -> Lowered<Vec<Statement>> {
        statements.iter().map(|statement| self.statement(statement)).collect()
    }

    fn statement(&mut self, statement: &ast::Stmt<'_>) -> Lowered<Statement> {
        let span = span_of(statement);
        let kind = self.deeper(span, |this| this.kind(statement))?;
        Ok(Statement { line: span.start_line as usize, kind })
    }

    fn kind(&mut self, statement: &ast::Stmt<'_>) -> Lowered<Kind> {
        Ok(match statement {
            ast::Stmt::EmitRaw(raw) => Kind::Text(raw.raw.into()),
            ast::Stmt::EmitExpr(print) => Kind::Print(self.expr(&print.expr)?),
            ast::Stmt::ForLoop(definition) => Kind::For(Arc::new(For {
                iterable: self.expr(&definition.iter)?,
                target: self.target(&definition.target)?,
                condition: definition.filter_expr.as_ref().map(|expr| self.expr(expr)).transpose()?,
                recursive: definition.recursive,
                body: self.statements(&definition.body)?,
                otherwise: self.statements(&definition.else_body)?,
            })),
            ast::Stmt::IfCond(condition) => {
                let start = condition.span().start_offset as usize;
                Kind::If {
                    test: self.expr(&condition.expr)?,
                    then: self.statements(&condition.true_body)?,
                    otherwise: self.statements(&condition.false_body)?,
                    elif: self.source.get(start..).is_some_and(|text| text.starts_with("elif")),
                }
            }
            ast::Stmt::WithBlock(with) => {
                let assignment = |(target, expr): &(ast::Expr<'_>, ast::Expr<'_>)| {
                    let expr = self.expr(expr)?;
                    Ok((self.target(target)?, expr))
                };
                let assignments = with.assignments.iter().map(assignment).collect::<Lowered<_>>()?;
                Kind::With(assignments, self.statements(&with.body)?)
            }
            ast::Stmt::Set(set) => {
                let expr = self.expr(&set.expr)?;
                Kind::Set(self.target(&set.target)?, expr)
            }
            ast::Stmt::SetBlock(set) => {
                let filter = set.filter.as_ref().map(|filter| self.expr(filter)).transpose()?;
                let body = self.statements(&set.body)?;
                Kind::SetBlock(self.target(&set.target)?, filter, body)
            }
            ast::Stmt::FilterBlock(block) => Kind::Filter(self.expr(&block.filter)?, self.statements(&block.body)?),
            ast::Stmt::Macro(definition) => Kind::Macro(Arc::new(self.definition(definition)?)),
            ast::Stmt::CallBlock(block) => {
                if matches!(&block.call.expr, ast::Expr::Var(var) if var.id == GENERATION) {
                    return Ok(Kind::Generation(self.statements(&block.macro_decl.body)?));
                }
                let function = self.expr(&block.call.expr)?;
                let arguments = self.arguments(&block.call.args)?;
                Kind::Call(function, arguments, Arc::new(self.definition(&block.macro_decl)?))
            }
            ast::Stmt::Continue(_) => Kind::Continue,
            ast::Stmt::Break(_) => Kind::Break,
            ast::Stmt::AutoEscape(block) => return syntax(block.span(), "`autoescape` is not supported"),
            ast::Stmt::Do(block) => return syntax(block.span(), "unknown tag `do`"),
            ast::Stmt::Template(block) => return syntax(block.span(), "a template inside of a template"),
        })
    }

    fn definition(&mut self, definition: &ast::Macro<'_>) -> Lowered<Macro> {
        let mut parameters = Vec::new();
        for parameter in &definition.args {
            match self.target(parameter)? {
                Target::Name(name) => parameters.push(name),
                _ => return syntax(parameter.span(), "a parameter must be a name"),
            }
        }
        let defaults = definition.defaults.iter().map(|default| self.expr(default)).collect::<Lowered<_>>()?;
        let read_before = self.read.len();
        let body = self.statements(&definition.body)?;
        let special = SPECIAL.map(|special| self.read[read_before..].iter().any(|name| name == special));
        Ok(Macro { name: definition.name.into(), parameters, defaults, body, special })
    }

    fn target(&mut self, target: &ast::Expr<'_>) -> Lowered<Target> {
        match target {
            ast::Expr::Var(var) => Ok(Target::Name(var.id.into())),
            ast::Expr::GetAttr(attribute) => match &attribute.expr {
                ast::Expr::Var(var) => {
                    self.read.push(var.id.into());
                    Ok(Target::Attribute(var.id.into(), attribute.name.into()))
                }
                other => syntax(other.span(), "only an attribute of a name can be assigned to"),
            },
            ast::Expr::List(list) => {
                let targets = list.items.iter().map(|item| self.deeper(list.span(), |this| this.target(item)));
                Ok(Target::Several(targets.collect::<Lowered<_>>()?))
            }
            other => syntax(other.span(), "this cannot be assigned to"),
        }
    }

    fn expr(&mut self, expr: &ast::Expr<'_>) -> Lowered<Expr> {
        self.deeper(expr.span(), |this| this.expr_kind(expr))
    }

    fn boxed(&mut self, expr: &ast::Expr<'_>) -> Lowered<Box<Expr>> {
        self.expr(expr).map(Box::new)
    }

    fn exprs(&mut self, exprs: &[ast::Expr<'_>]) -> Lowered<Vec<Expr>> {
        exprs.iter().map(|expr| self.expr(expr)).collect()
    }

    fn optional(&mut self, expr: &Option<ast::Expr<'_>>) -> Lowered<Option<Expr>> {
        expr.as_ref().map(|expr| self.expr(expr)).transpose()
    }

    fn expr_kind(&mut self, expr: &ast::Expr<'_>) -> Lowered<Expr> {
        Ok(match expr {
            ast::Expr::Var(var) => {
                self.read.push(var.id.into());
                Expr::Name(var.id.into())
            }
            ast::Expr::Const(constant) => Expr::Literal(literal(&constant.value, constant.span())?),
            ast::Expr::List(list) => Expr::List(self.exprs(&list.items)?),
            ast::Expr::Tuple(tuple) => Expr::Tuple(self.exprs(&tuple.items)?),
            ast::Expr::Map(map) => {
                let pair = |(key, value)| Ok((self.expr(key)?, self.expr(value)?));
                Expr::Dict(map.keys.iter().zip(&map.values).map(pair).collect::<Lowered<_>>()?)
            }
            ast::Expr::GetAttr(get) => Expr::Attribute(self.boxed(&get.expr)?, get.name.into()),
            ast::Expr::GetItem(get) => Expr::Item(self.boxed(&get.expr)?, self.boxed(&get.subscript_expr)?),
            ast::Expr::Slice(slice) => {
                let value = self.boxed(&slice.expr)?;
                let bounds = [self.optional(&slice.start)?, self.optional(&slice.stop)?, self.optional(&slice.step)?];
                Expr::Slice(value, Box::new(bounds))
            }
            ast::Expr::UnaryOp(unary) => {
                let value = self.boxed(&unary.expr)?;
                match unary.op {
                    ast::UnaryOpKind::Not => Expr::Not(value),
                    ast::UnaryOpKind::Neg => Expr::Negative(value),
                }
            }
            ast::Expr::BinOp(binary) => {
                let (left, right) = (self.expr(&binary.left)?, self.expr(&binary.right)?);
                match operator(binary.op) {
                    Ok(op) => Expr::Binary(op, Box::new((left, right))),
                    Err(op) => Expr::Compare(Box::new(left), vec![(op, right)]),
                }
            }
            ast::Expr::Compare(compare) => {
                let first = self.boxed(&compare.expr)?;
                let rest = compare.ops.iter().map(|op| Ok((comparison(op.op), self.expr(&op.expr)?)));
                Expr::Compare(first, rest.collect::<Lowered<_>>()?)
            }
            ast::Expr::IfExpr(conditional) => {
                let test = self.expr(&conditional.test_expr)?;
                let then = self.expr(&conditional.true_expr)?;
                let otherwise = conditional.false_expr.as_ref().map(|expr| self.boxed(expr)).transpose()?;
                Expr::Conditional(Box::new((test, then)), otherwise)
            }
            ast::Expr::Filter(filter) => {
                if !FILTERS.contains(&filter.name) {
                    return syntax(filter.span(), format!("the filter `{}` is unknown or not supported", filter.name));
                }
                let input = filter.expr.as_ref().map(|expr| self.boxed(expr)).transpose()?;
                Expr::Filter(filter.name.into(), input, self.arguments(&filter.args)?)
            }
            ast::Expr::Test(test) => {
                if !TESTS.contains(&test.name) {
                    return syntax(test.span(), format!("there is no test named `{}`", test.name));
                }
                // Of a test with `is not`, too.
                let tested = match &test.expr {
                    ast::Expr::UnaryOp(unary) if matches!(unary.op, ast::UnaryOpKind::Not) => &unary.expr,
                    other => other,
                };
                if matches!(tested, ast::Expr::Test(_)) {
                    return syntax(test.span(), "a test of a test is not supported");
                }
                let input = self.boxed(&test.expr)?;
                Expr::Test(test.name.into(), input, self.arguments(&test.args)?)
            }
            ast::Expr::Call(call) => Expr::Call(self.boxed(&call.expr)?, self.arguments(&call.args)?),
        })
    }

    fn arguments(&mut self, arguments: &[ast::CallArg<'_>]) -> Lowered<Vec<Argument>> {
        let argument = |argument: &ast::CallArg<'_>| {
            Ok(match argument {
                ast::CallArg::Pos(expr) => Argument::Positional(self.expr(expr)?),
                ast::CallArg::Kwarg(name, expr) => Argument::Named((*name).into(), self.expr(expr)?),
                ast::CallArg::PosSplat(expr) => Argument::Splat(self.expr(expr)?),
                ast::CallArg::KwargSplat(expr) => Argument::NamedSplat(self.expr(expr)?),
            })
        };
        arguments.iter().map(argument).collect()
    }
}

fn span_of(statement: &ast::Stmt<'_>) -> Span {
    match statement {
        ast::Stmt::Template(s) => s.span(),
        ast::Stmt::EmitExpr(s) => s.span(),
        ast::Stmt::EmitRaw(s) => s.span(),
        ast::Stmt::ForLoop(s) => s.span(),
        ast::Stmt::IfCond(s) => s.span(),
        ast::Stmt::WithBlock(s) => s.span(),
        ast::Stmt::Set(s) => s.span(),
        ast::Stmt::SetBlock(s) => s.span(),
        ast::Stmt::AutoEscape(s) => s.span(),
        ast::Stmt::FilterBlock(s) => s.span(),
        ast::Stmt::Macro(s) => s.span(),
        ast::Stmt::CallBlock(s) => s.span(),
        ast::Stmt::Continue(s) => s.span(),
        ast::Stmt::Break(s) => s.span(),
        ast::Stmt::Do(s) => s.span(),
    }
}

fn literal(value: &minijinja::Value, span: Span) -> Lowered<Literal> {
    let found = match value.kind() {
        ValueKind::None => Some(Literal::None),
        ValueKind::Bool => Some(Literal::Bool(value.is_true())),
        ValueKind::String => value.as_str().map(|text| Literal::Text(text.into())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok().map(Literal::Int),
        ValueKind::Number => f64::try_from(value.clone()).ok().map(Literal::Float),
        _ => None,
    };
    found.map_or_else(|| syntax(span, "this constant is not supported"), Ok)
}

/// The operator, or the comparison.
fn operator(op: ast::BinOpKind) -> Result<Binary, Comparison> {
    Ok(match op {
        ast::BinOpKind::Eq => return Err(Comparison::Equal),
        ast::BinOpKind::Ne => return Err(Comparison::NotEqual),
        ast::BinOpKind::Lt => return Err(Comparison::Less),
        ast::BinOpKind::Lte => return Err(Comparison::LessOrEqual),
        ast::BinOpKind::Gt => return Err(Comparison::Greater),
        ast::BinOpKind::Gte => return Err(Comparison::GreaterOrEqual),
        ast::BinOpKind::In => return Err(Comparison::In),
        ast::BinOpKind::ScAnd => Binary::And,
        ast::BinOpKind::ScOr => Binary::Or,
        ast::BinOpKind::Add => Binary::Add,
        ast::BinOpKind::Sub => Binary::Subtract,
        ast::BinOpKind::Mul => Binary::Multiply,
        ast::BinOpKind::Div => Binary::Divide,
        ast::BinOpKind::FloorDiv => Binary::FloorDivide,
        ast::BinOpKind::Rem => Binary::Remainder,
        ast::BinOpKind::Pow => Binary::Power,
        ast::BinOpKind::Concat => Binary::Concat,
    })
}

fn comparison(op: ast::CompareOpKind) -> Comparison {
    match op {
        ast::CompareOpKind::Eq => Comparison::Equal,
        ast::CompareOpKind::Ne => Comparison::NotEqual,
        ast::CompareOpKind::Lt => Comparison::Less,
        ast::CompareOpKind::Lte => Comparison::LessOrEqual,
        ast::CompareOpKind::Gt => Comparison::Greater,
        ast::CompareOpKind::Gte => Comparison::GreaterOrEqual,
        ast::CompareOpKind::In => Comparison::In,
        ast::CompareOpKind::NotIn => Comparison::NotIn,
    }
}
