# Reads what test runners print and says "<passed> <failed>", summed over all of them.
# Knows cargo-nextest, cargo test and Python's unittest.

{ gsub(/\033\[[0-9;]*m/, "") }

# nextest:  Summary [   0.1s] 12 tests run: 11 passed (1 slow), 1 failed, 1 timed out, 0 skipped
/^ *Summary \[/ {
  for (i = 2; i <= NF; i++) {
    if ($i ~ /^passed/) passed += $(i - 1)
    if ($i ~ /^(failed|timed)/) failed += $(i - 1)
  }
}

# cargo test:  test result: ok. 5 passed; 0 failed; 0 ignored; ...
/^test result:/ { passed += $4; failed += $6 }

# unittest:  Ran 8 tests in 0.01s  ...  OK | FAILED (failures=1, errors=2)
/^Ran [0-9]+ tests? in/ { ran = $2 }
/^OK/ && ran { passed += ran; ran = 0 }
/^FAILED \(/ && ran {
  bad = 0
  n = split($0, numbers, /[^0-9]+/)
  for (i = 1; i <= n; i++) bad += numbers[i]
  failed += bad
  passed += ran - bad
  ran = 0
}

END { print passed + 0, failed + 0 }
