# Welch's test, and the related family against a random-effects mean of control families, by R.
#
#   Rscript tests/references/units.R
#
# writes units.json beside this file. Needs jsonlite and metafor (Debian: r-cran-jsonlite,
# r-cran-metafor). The data are made here, without R's random numbers.

suppressMessages(library(metafor))

folder <- dirname(sub("--file=", "", grep("--file=", commandArgs(), value = TRUE)))

# Gains in proportion: a family's own level, and a wave for its languages.
gains <- function(level, size, wave) {
  unlist(lapply(seq_along(level), function(k) {
    level[k] + wave * sin(1.7 * seq_len(size[k]) + k)
  }))
}

welch <- function(related, control) {
  found <- t.test(related, control)
  list(estimate = unname(diff(rev(found$estimate))), se = found$stderr,
       df = unname(found$parameter), p = found$p.value,
       low = found$conf.int[1], high = found$conf.int[2])
}

# A new family's mean over its languages differs from the families' mean by the error of that mean
# (Hartung & Knapp), by tau2, and by its own languages.
families <- function(related, control, family) {
  size <- tapply(control, family, length)
  mean_of <- tapply(control, family, mean)
  within <- sum((control - mean_of[family])^2) / (length(control) - length(size))
  fit <- rma(yi = as.numeric(mean_of), vi = as.numeric(within / size), method = "PM",
             test = "knha", control = list(tol = 1e-12))
  estimate <- mean(related) - as.numeric(fit$beta)
  se <- sqrt(fit$se^2 + fit$tau2 + within / length(related))
  df <- length(size) - 1
  list(estimate = estimate, se = se, df = df, p = 2 * pt(-abs(estimate / se), df), tau2 = fit$tau2,
       low = estimate - qt(0.975, df) * se, high = estimate + qt(0.975, df) * se)
}

case <- function(name, level, size, wave, related) {
  control <- gains(level, size, wave)
  family <- rep(letters[seq_along(level)], size)
  list(name = name, related = related, control = control, family = family,
       welch = welch(related, control), families = families(related, control, family))
}

cases <- list(
  case("families differ", c(0.02, 0.11, 0.05, 0.16, 0.08), c(1, 4, 2, 3, 5), 0.012,
       c(0.19, 0.15, 0.17, 0.22)),
  case("families alike", c(0.08, 0.081, 0.079, 0.08), c(3, 2, 4, 3), 0.05,
       c(0.13, 0.06, 0.10)),
  case("one large family", c(0.05, 0.09, 0.02, 0.12, 0.07, 0.04, 0.10, 0.03, 0.06),
       c(40, 1, 1, 2, 1, 6, 1, 3, 2), 0.02, c(0.10, 0.12, 0.06, 0.11))
)
stored <- list(R = R.version.string, metafor = as.character(packageVersion("metafor")),
               cases = cases)
writeLines(jsonlite::toJSON(stored, auto_unbox = TRUE, digits = 12, pretty = TRUE),
           file.path(folder, "units.json"))
