"""What a person sees: the local stage in Prefect's own UI, asked and answered in a real browser.

With SCREENSHOTS=1 the pictures of docs/ui are taken again.
"""

import os
import re
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import psycopg
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from deployments.declared import declared
from deployments.local.database import ServiceDatabase
from deployments.local.repository import Repository
from deployments.local.stage import LocalStage, down, up
from flows.records import KINDS
from flows.records_release import Told
from flows.stage import STAGES, Stage
from flows.world import World
from tests.parts.processes import eventually

CHROMIUM = Path("/usr/bin/chromium")
PICTURES = Path(__file__).resolve().parents[2] / "docs" / "ui"
BACKUP = r"\d{8}T\d{6}Z-daily-\w{6}"
RUN_MS = 240_000  # a bake until evidence, on a machine that is busy with other tests
LIST = "/deployments?limit=25"  # all on one page
STARTED = re.compile(r"[a-z-]+ of app$|(restore|prove|prune|reconcile|status|deploy|rollback) ")
LONG, SHORT = 'look = "10s"\nminimum = "30s"', 'look = "2s"\nminimum = "16s"'  # more to see, less to wait for
FAULT = {"errors": 0.03, "errors_after": 40}  # at the visitors' 25 requests a second: seen after some looks

pytestmark = [
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no browser: {CHROMIUM} is missing"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Generator[LocalStage]:
    folder, stages = tmp_path_factory.mktemp("ui"), tmp_path_factory.mktemp("stages")
    text = (STAGES / "local.toml").read_text()
    assert LONG in text
    (stages / "local.toml").write_text(text.replace(LONG, SHORT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHIPKEEPER_STAGES", str(stages))
        try:
            yield up(folder)
        finally:
            down(folder)


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def page(stage: LocalStage, browser: Browser) -> Generator[Page]:
    with browser.new_page(viewport={"width": 1280, "height": 800}, base_url=stage.ui) as page:
        page.set_default_timeout(90_000)
        expect.set_options(timeout=60_000)  # the UI asks for news every few seconds
        yield page


@pytest.fixture(scope="module")
def backed_up(page: Page) -> str:
    """The page of a backup that was asked for by the form, once it is complete and proven."""
    open_form(page, "backup")
    choose(page, "on-demand", "daily")
    at = submit(page)
    ended(page, "Completed")
    page.goto("/runs")
    proof = page.get_by_role("link", name=re.compile(f"prove {BACKUP}")).first
    proof.wait_for(timeout=RUN_MS)
    proof.click()
    ended(page, "Completed")
    return at


@pytest.fixture(scope="module")
def repository(stage: LocalStage) -> Repository:
    return Repository(stage.folder / "repository")


@pytest.fixture(scope="module")
def baking(page: Page, stage: LocalStage, repository: Repository) -> tuple[str, str]:
    """The page of a bad release's deploy, asked for by the form, while evidence is gathered; and the commit."""
    eventually(lambda: minutes(stage) and not releases(stage)[-1].open, RUN_MS / 1000)
    commit = repository.release("feat: a fault in a few answers", FAULT)
    open_form(page, "deploy")
    field(page, "commit").get_by_role("textbox").fill(commit)
    at = submit(page)
    eventually(lambda: looks(stage, commit), RUN_MS / 1000)
    return at, commit


@pytest.fixture(scope="module")
def taken_back(page: Page, baking: tuple[str, str]) -> str:
    """The same page once evidence has taken the release back."""
    page.goto(baking[0])
    ended(page, "Failed")
    return baking[0]


def open_form(page: Page, flow: str) -> None:
    """From the list to the custom run's form of a flow's deployment."""
    page.goto(LIST)
    name_of(page, flow).click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    page.get_by_text("Validate parameters").wait_for()


def row(page: Page, flow: str) -> Locator:
    """The flow's row in the deployments list."""
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=flow, exact=True))


def name_of(page: Page, flow: str) -> Locator:
    """The link to that deployment."""
    return row(page, flow).get_by_role("link", name="local", exact=True)


def field(page: Page, name: str) -> Locator:
    """A field of a form, with its label and description."""
    return page.locator(".schema-form-property").filter(has=page.get_by_text(re.compile(rf"^{name}( \(Optional\))?$")))


def choose(page: Page, now: str, wanted: str) -> None:
    """Take another one of a list of choices."""
    page.get_by_role("button", name=now).press("ArrowDown")
    page.get_by_role("option", name=wanted, exact=True).or_(page.get_by_text(wanted, exact=True)).first.click()


def submit(page: Page) -> str:
    """Ask for the run, go to its page, and return where that is."""
    with page.expect_response("**/create_flow_run") as answered:
        page.get_by_role("button", name="Submit").click()
    page.goto(urljoin(page.url, f"/runs/flow-run/{answered.value.json()['id']}"))
    return page.url


def ended(page: Page, state: str) -> None:
    """Wait until the run's page shows that state."""
    expect(page.locator(".state-badge").first).to_have_text(state, timeout=RUN_MS)


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).or_(page.locator(".p-tab", has_text=name)).first.click()


def state_message(page: Page) -> Locator:
    """The whole message of the run's state."""
    tab(page, "Details")
    page.get_by_text("See More").first.click()
    return page.locator("main, body").first


def picture(page: Page, name: str) -> None:
    """Take the picture for the docs, where that is wanted."""
    if os.environ.get("SCREENSHOTS"):
        page.wait_for_timeout(1500)  # the UI fades and draws
        PICTURES.mkdir(exist_ok=True)
        page.screenshot(path=PICTURES / f"{name}.png")


def asked(stage: LocalStage, what: str) -> list[dict[str, Any]]:
    """Everything of a kind that the server knows."""
    return httpx.post(urljoin(stage.ui, f"/api/{what}/filter"), json={}, timeout=30).json()


def videos(stage: LocalStage) -> int:
    with ServiceDatabase(stage.folder / "service").address.connect() as connection:
        return count(connection)


def count(connection: "psycopg.Connection[Any]") -> int:
    found = connection.execute("select count(*) from public.videos").fetchone()
    return int(found[0]) if found else 0


def world(stage: LocalStage) -> World:
    """The stage as a flow sees it."""
    return World(Stage.named("local"), stage.environ)


def releases(stage: LocalStage) -> list[Told]:
    """All that are remembered, oldest first."""
    return world(stage).ledger.releases.all()


def looks(stage: LocalStage, commit: str) -> list[Any]:
    """Those at the newest release of the commit."""
    found = [each for each in releases(stage) if each.release.commit == commit]
    return world(stage).ledger.releases.looks(found[-1].release.key) if found else []


def minutes(stage: LocalStage) -> list[Any]:
    """Whole ones of the first release's visitors: a baseline."""
    first, now = releases(stage)[0], datetime.now(UTC)
    return world(stage).counter.minutes([first.release.slot], first.live_at or now, now)


def test_every_deployment_is_listed_and_says_what_it_does(page: Page) -> None:
    wanted = declared("local")
    page.goto(LIST)
    expect(page.get_by_text(f"{len(wanted)} Deployments")).to_be_visible()
    for each in wanted:
        expect(row(page, each.flow)).to_contain_text("Ready")
    picture(page, "deployments")
    links = [(each, str(name_of(page, each.flow).get_attribute("href"))) for each in wanted]
    for each, link in links:
        page.goto(f"{link}?tab=Description")
        expect(page.get_by_text(each.description)).to_be_visible()


def test_the_form_offers_the_kinds_and_says_what_each_field_is_for(page: Page) -> None:
    open_form(page, "backup")
    expect(field(page, "stage")).to_contain_text("which stage is backed up; it must be the worker's own")
    expect(field(page, "kind")).to_contain_text("it decides how long it stays and whether it is proven")
    expect(field(page, "dry_run")).to_contain_text("show the plan and stop")
    picture(page, "backup-form")
    page.get_by_role("button", name="on-demand").press("ArrowDown")
    for kind in KINDS:
        expect(page.get_by_text(kind, exact=True).first).to_be_attached()


def test_a_backups_page_says_what_was_done(page: Page, backed_up: str) -> None:
    page.goto(backed_up)
    expect(page.get_by_text("daily of app", exact=True).first).to_be_visible()
    logs = page.get_by_text(re.compile(r"^daily backup of app: \d+ tables, .* on Postgres 17"))
    expect(logs.first).to_be_visible()
    expect(page.get_by_text(re.compile(r"Finished in state Completed\('.*rows of 10 tables")).first).to_be_visible()
    picture(page, "backup-run")
    tab(page, "Task Runs")
    for task in ("look at the database", "dump app"):
        expect(page.get_by_text(task, exact=True).first).to_be_visible()
    expect(page.get_by_text(re.compile(f"^commit {BACKUP}$")).first).to_be_visible()
    expect(state_message(page)).to_contain_text(
        re.compile(rf"{BACKUP}: [\d,]+ rows of 10 tables, .* stored; prove asked for: run prove {BACKUP}")
    )


def test_a_backups_progress_and_report_are_artifacts(page: Page, backed_up: str) -> None:
    page.goto(backed_up)
    tab(page, "Artifacts")
    expect(page.get_by_role("link", name="backup-plan")).to_contain_text("daily backup of app")
    page.get_by_role("heading", name="Task runs").scroll_into_view_if_needed()
    expect(page.get_by_role("link", name="backup-progress")).to_contain_text(re.compile(f"Progress of {BACKUP}"))
    page.get_by_role("link", name="backup-report").first.click()
    expect(page.get_by_role("heading", name=re.compile(BACKUP))).to_be_visible()
    for text in ("prove asked for: run prove", "as the best of its time", "public.videos"):
        expect(page.get_by_text(text).first).to_be_visible()
    chart = page.get_by_role("img", name=re.compile("^Stored: "))
    expect(chart).to_be_visible()
    assert chart.evaluate("image => image.naturalWidth") > 0
    picture(page, "backup-report")


def test_rows_that_were_lost_come_back_once_a_person_approves(page: Page, stage: LocalStage, backed_up: str) -> None:
    had = videos(stage)
    with ServiceDatabase(stage.folder / "service").address.connect() as connection:
        connection.execute("truncate public.videos cascade")
    open_form(page, "restore")
    field(page, "swap").get_by_role("textbox").fill("app")
    submit(page)
    ended(page, "Suspended")
    expect(
        page.get_by_text(re.compile(f"^restore {BACKUP} into app_restore_\\w+ and swap it in as app$")).first
    ).to_be_visible()

    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text(re.compile(r"is renamed to app_before_\w+ and stays"))).to_be_visible()
    field(page, "Live database").get_by_role("textbox").fill("app")
    field(page, "Approved by").get_by_role("textbox").fill("Kim Minji")
    picture(page, "approval")
    page.get_by_role("button", name="Submit").click()

    ended(page, "Completed")
    assert videos(stage) > 0.95 * had  # the visitors add some between the backup and the loss
    assert len(httpx.get(f"{stage.service}/api/videos/trending", timeout=10).raise_for_status().json()["videos"]) == 20
    tab(page, "Artifacts")
    page.get_by_role("link", name="restore-report").first.click()
    expect(page.get_by_role("heading", name="Restored and swapped in")).to_be_visible()
    expect(
        page.get_by_text(re.compile(f"^{BACKUP} is live as app; the old one is kept, closed, as")).first
    ).to_be_visible()
    expect(page.get_by_text("10 tables", exact=False).first).to_be_visible()
    picture(page, "restore-report")


def test_the_form_of_a_deploy_says_what_each_field_is_for(page: Page) -> None:
    open_form(page, "deploy")
    expect(field(page, "commit")).to_contain_text("empty for the newest commit of the stage's branch")
    expect(field(page, "backup")).to_contain_text("or the id of a proven one that is younger than the stage's RPO")
    expect(field(page, "dry_run")).to_contain_text("show the plan, with the gates that only read, and stop")
    picture(page, "deploy-form")


def test_a_running_deploy_says_what_it_does_and_how_the_evidence_stands(page: Page, baking: tuple[str, str]) -> None:
    at, commit = baking
    page.goto(at)
    plan = f"deploy v2 ({commit[:8]}) to local instead of"
    expect(
        page.get_by_text(re.compile(f"^{re.escape(plan)} \\w+: feat: a fault in a few answers$")).first
    ).to_be_visible()
    expect(
        page.get_by_text(re.compile(r"^\d+ s: errors \d+ of \d+, evidence .* : 1; watching, ")).first
    ).to_be_visible()
    picture(page, "deploy-running")
    tab(page, "Artifacts")
    page.get_by_role("heading", name="Task runs").scroll_into_view_if_needed()
    expect(page.get_by_role("link", name="bake-progress")).to_contain_text(f"Bake of v2 ({commit[:8]})")
    ended(page, "Failed")
    tab(page, "Task Runs")
    for task in ("start green", "shift to green", f"bake v2 ({commit[:8]})", "undo shift to green", "undo start green"):
        expect(page.get_by_text(task, exact=True).first).to_be_visible()


def test_the_page_of_a_release_that_was_taken_back_shows_the_evidence(page: Page, taken_back: str) -> None:
    page.goto(taken_back)
    expect(state_message(page)).to_contain_text(re.compile(r"ROLLED BACK .* Now v1 \(\w{8}\) serves again"))
    tab(page, "Artifacts")
    page.get_by_role("heading", name="Task runs").scroll_into_view_if_needed()
    page.get_by_role("link", name="deploy-report").first.click()
    expect(page.get_by_role("heading", name=re.compile(r"^v2 \(\w{8}\) on local$"))).to_be_visible()
    plot = page.get_by_role("img", name=re.compile("^Evidence against v2"))
    expect(plot).to_be_visible()
    assert plot.evaluate("image => image.naturalWidth") > 0
    picture(page, "deploy-evidence")


def test_a_rollback_is_told_on_a_page_of_its_own(
    page: Page, stage: LocalStage, repository: Repository, taken_back: str
) -> None:
    commit = repository.release("feat: shorter titles", {})
    open_form(page, "deploy")
    submit(page)
    ended(page, "Completed")
    open_form(page, "rollback")
    field(page, "to").get_by_role("textbox").fill("v1")
    field(page, "reason").get_by_role("textbox").fill("search is empty")
    submit(page)
    ended(page, "Completed")
    first = releases(stage)[0].release.commit
    assert httpx.get(f"{stage.service}/health", timeout=10).headers["x-release"] == first != commit
    tab(page, "Artifacts")
    page.get_by_role("heading", name="Task runs").scroll_into_view_if_needed()
    page.get_by_role("link", name="rollback-report").first.click()
    expect(page.get_by_role("heading", name="Rollback", exact=True)).to_be_visible()
    expect(page.get_by_text(re.compile("it helped: KEPT")).first).to_be_visible()
    plot = page.get_by_role("img", name="Evidence after the rollback to v1")
    assert plot.evaluate("image => image.naturalWidth") > 0
    picture(page, "rollback-report")


def test_a_refused_run_says_why_in_one_sentence(page: Page, backed_up: str) -> None:
    open_form(page, "restore")
    field(page, "which").get_by_role("textbox").fill("nonsense")
    submit(page)
    ended(page, "Failed")
    expect(page.get_by_text(re.compile("names no backup: expected an id")).first).to_be_visible()
    expect(page.get_by_text("Traceback")).to_have_count(0)
    expect(state_message(page)).to_contain_text(
        re.compile("which names no backup: expected an id, latest-proven, or a time .*, found 'nonsense'")
    )


def test_runs_are_named_after_what_they_do_and_artifacts_described(stage: LocalStage, backed_up: str) -> None:
    started = [run["name"] for run in asked(stage, "flow_runs") if run["start_time"]]
    assert len(started) >= 3
    assert [name for name in started if not STARTED.match(name)] == []
    artifacts = asked(stage, "artifacts")
    assert len(artifacts) >= 5
    assert [each["key"] for each in artifacts if not each["description"]] == []
