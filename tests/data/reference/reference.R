# Reference values of the statistics in analysis/, worked out by R.
#
#   Rscript reference.R      in this folder; reads answers.csv, writes reference.json
#   Rscript reference.R new  draws answers.csv anew first
#
# Needs the packages jsonlite, lme4 and sandwich (Debian: r-cran-jsonlite, r-cran-lme4,
# r-cran-sandwich). answers.csv has a row for each of 7 models and 3 + 3 languages: `before` and
# `after` are answers to the same 40 items, 1 where right; `baseline` is a training-split accuracy.

suppressMessages(library(lme4))
library(sandwich)

N_ITEMS <- 40

draw_answers <- function() {
  set.seed(20)
  table <- expand.grid(model = paste0("m", 1:7), language = c("r1", "r2", "r3", "c1", "c2", "c3"),
                       stringsAsFactors = FALSE)
  table$family <- ifelse(substr(table$language, 1, 1) == "r", "related", "control")
  level <- seq(0.3, 0.6, length.out = 7)[match(table$model, paste0("m", 1:7))]
  receptivity <- rnorm(6, 0, 0.08)[match(table$language, unique(table$language))]
  own <- rnorm(nrow(table), 0, 0.07)
  gain <- 0.1 + 0.05 * (table$family == "related") + receptivity + own
  item <- matrix(rnorm(6 * N_ITEMS, 0, 0.12), 6)[match(table$language, unique(table$language)), ]
  draws <- matrix(runif(nrow(table) * N_ITEMS), nrow(table))
  again <- ifelse(runif(length(draws)) < 0.3, runif(length(draws)), draws)
  bits <- function(x) apply(x * 1, 1, paste, collapse = "")
  table$before <- bits(draws < level)
  table$after <- bits(again < level + gain + item)
  table$baseline <- round(level + rnorm(nrow(table), 0, 0.03), 3)
  write.csv(table, "answers.csv", row.names = FALSE, quote = FALSE)
}

# Method 10 of Newcombe 1998 by way of the quadratic that Wilson's limits solve.
wilson <- function(x, n, z) {
  roots <- polyroot(c(x^2 / n^2, -(2 * x / n + z^2 / n), 1 + z^2 / n))
  sort(Re(roots))
}

newcombe <- function(e, f, g, h, z = qnorm(0.975)) {
  n <- e + f + g + h
  first <- wilson(e + f, n, z)
  second <- wilson(e + g, n, z)
  p <- c(e + f, e + g) / n
  product <- (e + f) * (g + h) * (e + g) * (f + h)
  cross <- e * h - f * g
  phi <- 0
  if (product > 0) {
    if (cross > n / 2) cross <- cross - n / 2 else if (cross >= 0) cross <- 0
    phi <- cross / sqrt(product)
  }
  dl <- p - c(first[1], second[1])
  du <- c(first[2], second[2]) - p
  delta <- sqrt(dl[1]^2 - 2 * phi * dl[1] * du[2] + du[2]^2)
  epsilon <- sqrt(du[1]^2 - 2 * phi * du[1] * dl[2] + dl[2]^2)
  unname(c(p[1] - p[2] - delta, p[1] - p[2] + epsilon))
}

difference <- function(related, control) {
  found <- t.test(related, control, var.equal = TRUE)
  list(estimate = unname(diff(rev(found$estimate))), t = unname(found$statistic),
       df = unname(found$parameter), se = found$stderr, p = found$p.value,
       low = found$conf.int[1], high = found$conf.int[2])
}

if ("new" %in% commandArgs(trailingOnly = TRUE)) draw_answers()
cells <- read.csv("answers.csv", colClasses = c(before = "character", after = "character"))
right <- function(column) {
  t(sapply(strsplit(cells[[column]], ""), as.numeric))
}
before <- right("before")
after <- right("after")
cells$both <- rowSums(before * after)
cells$gained <- rowSums((1 - before) * after)
cells$lost <- rowSums(before * (1 - after))
cells$neither <- rowSums((1 - before) * (1 - after))
cells$gain <- (cells$gained - cells$lost) / ncol(before)
cells$group <- ifelse(cells$model %in% paste0("m", 1:4), "weak", "strong")

# D and I with languages as the sampling unit.
by_language <- aggregate(gain ~ language + family, cells, mean)
of <- function(table, family) table$gain[table$family == family]
d <- difference(of(by_language, "related"), of(by_language, "control"))
two <- aggregate(gain ~ language + family + group, cells, mean)
two$language <- factor(two$language)
wide <- merge(two[two$group == "weak", ], two[two$group == "strong", ], by = c("language", "family"))
wide$gain <- wide$gain.x - wide$gain.y
i <- difference(of(wide, "related"), of(wide, "control"))
within <- summary(aov(gain ~ family * group + Error(language), two))[["Error: Within"]][[1]]
i$F <- within[["F value"]][2]
i$F_p <- within[["Pr(>F)"]][2]

# TOST of D: two one-sided t tests.
bounds <- c(0.03, 0.05, 0.15)
tost <- sapply(bounds, function(bound) {
  x <- of(by_language, "related")
  y <- of(by_language, "control")
  max(t.test(x, y, mu = -bound, alternative = "greater", var.equal = TRUE)$p.value,
      t.test(x, y, mu = bound, alternative = "less", var.equal = TRUE)$p.value)
})
ninety <- t.test(of(by_language, "related"), of(by_language, "control"), var.equal = TRUE,
                 conf.level = 0.90)$conf.int

# Paired proportions by cell, and some tables at the edges.
edges <- data.frame(both = c(0, 40, 0, 20, 0, 1, 36, 700), gained = c(0, 0, 40, 0, 5, 12, 1, 90),
                    lost = c(0, 0, 0, 0, 5, 3, 2, 60), neither = c(40, 0, 0, 20, 0, 24, 1, 50))
paired <- rbind(cells[names(edges)], edges)
limits <- mapply(newcombe, paired$both, paired$gained, paired$lost, paired$neither)
mcnemar <- mapply(function(gained, lost) {
  if (gained + lost == 0) 1 else binom.test(gained, gained + lost)$p.value
}, paired$gained, paired$lost)

# Gain on family by baseline, fixed effects of models, errors clustered by model and language.
cells$related <- (cells$family == "related") * 1
centred <- cells$baseline - mean(cells$baseline)
cells$centred <- centred
fit <- lm(gain ~ related * centred + model, cells)
clustered <- function(cluster, multi0 = FALSE) {
  vcovCL(fit, cluster = cluster, type = "HC1", cadjust = TRUE, multi0 = multi0)
}
names_of <- c("related", "centred", "related:centred")
se <- function(v) as.list(sqrt(diag(v))[names_of])
regression <- list(
  coef = as.list(coef(fit)[names_of]), iid_se = se(vcov(fit)),
  by_model = se(clustered(~model)), by_language = se(clustered(~language)),
  two_way_variance = as.list(diag(clustered(~ model + language))[names_of]))

# Variance components: what all languages of a family share is fixed, the rest random.
long <- data.frame(
  gain = as.vector(after - before), item = factor(rep(seq_len(ncol(before)), each = nrow(cells))),
  model = cells$model, language = cells$language, family = cells$family)
crossed <- lmer(
  gain ~ 0 + family:model:item + (1 | language) + (1 | model:language) + (1 | item:language), long,
  control = lmerControl(check.rankX = "ignore", calc.derivs = FALSE, optimizer = "bobyqa",
                        optCtrl = list(rhoend = 1e-9)))
parts <- as.data.frame(VarCorr(crossed))
components <- setNames(as.list(parts$vcov), parts$grp)

# Power of the two-sample t test, equal groups.
power <- sapply(c(3, 6, 10), function(n) power.t.test(n, power = 0.8, strict = TRUE,
                                                      tol = 1e-12)$delta)

out <- list(
  made_by = c(R.version.string, paste("lme4", packageVersion("lme4")),
              paste("sandwich", packageVersion("sandwich"))),
  D = d, I = i,
  tost = list(bound = bounds, p = tost, low_90 = ninety[1], high_90 = ninety[2]),
  paired = c(as.list(paired), list(low = limits[1, ], high = limits[2, ], p = mcnemar)),
  adjusted = list(holm = p.adjust(mcnemar, "holm"), bh = p.adjust(mcnemar, "BH"),
                  holm_primary = p.adjust(c(d$p, i$p), "holm")),
  regression = regression, components = components,
  detectable = list(n = c(3, 6, 10), d = power))
jsonlite::write_json(out, "reference.json", auto_unbox = TRUE, digits = I(17), pretty = TRUE)
