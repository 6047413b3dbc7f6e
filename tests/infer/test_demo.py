"""`make demo`, at a small size."""

from emberwalk.infer import demo


def test_demo_writes_its_figures_and_draws(tmp_path, capsys):
    demo.main(["--draws", "6", "--warmup", "4", "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    names = ["parameters.png", "posterior.nc", "update_rate.png", "volatility.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names:
        assert f"wrote {tmp_path / name}" in printed
    assert "Each sweep renewed" in printed
    assert "Source: European Central Bank" in printed
